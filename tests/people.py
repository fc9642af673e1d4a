"""Users and groups for tests, their access control lists, and who may do what.

No account has these numbers. They can own files all the same, and root can become each
of these users.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from support import NOBODY, call_libc, in_child

ALICE, BOB, CAROL, DAVE, EVE = 70001, 70002, 70003, 70004, 70005
TEAM, INTERNS = 70010, 70020

# In the tests, Alice owns files, and Bob or root replaces them. Alice is not listed, as
# she could give herself any access. Nor are the other two: they know what they wrote.
PEOPLE: dict[str, tuple[int, list[int]]] = {
    'a stranger': (EVE, []),
    'Carol': (CAROL, []),
    'Carol, of the team': (CAROL, [TEAM]),
    'one of the team': (DAVE, [TEAM]),
    "one of Bob's group": (DAVE, [BOB]),
    "one of root's group": (DAVE, [0]),
    'an intern': (DAVE, [INTERNS]),
    "an intern of Bob's group": (DAVE, [INTERNS, BOB]),
    'an intern of the team': (DAVE, [INTERNS, TEAM]),
}

RIGHTS = {'read': os.R_OK, 'write': os.W_OK, 'execute': os.X_OK}


def who_may(paths: Iterable[Path]) -> set[str]:
    """Ask the kernel, as each user, who may do what with which file. Needs root."""
    found = set()
    paths, groups = list(paths), os.getgroups()
    for who, (uid, theirs) in PEOPLE.items():
        os.setgroups(theirs)
        os.setegid(NOBODY)
        os.seteuid(uid)
        try:
            found |= {
                f'{who} may {right} {path.name}'
                for path in paths
                for right, bit in RIGHTS.items()
                if os.access(path, bit, effective_ids=True)
            }
        finally:
            os.seteuid(0)
            os.setegid(0)
            os.setgroups(groups)
    return found


# The attributes that hold a file's list, and the list that a folder gives to new files.
ACCESS, DEFAULT = 'system.posix_acl_access', 'system.posix_acl_default'


def acl(text: str) -> bytes:
    """Pack an access control list, such as 'u::rw- u:70003:r-- g::r-- m::r-- o::---'.

    If a file has a list, its mode shows the owner, the mask and others (acl(5)).
    """
    packed = struct.pack('<I', 2)  # linux/posix_acl_xattr.h
    for entry in text.split():
        kind, name, permissions = entry.split(':')
        tag = {'u': 0x01, 'g': 0x04, 'm': 0x10, 'o': 0x20}[kind] << bool(name)
        bits = sum(4 >> i for i, letter in enumerate(permissions) if letter != '-')
        packed += struct.pack('<HHI', tag, bits, int(name or 0xFFFFFFFF))
    return packed


CAROL_MAY_READ = acl(f'u::rw- u:{CAROL}:r-- g::--- m::r-- o::---')
CAROL_MAY_NOT = acl(f'u::rw- u:{CAROL}:--- g::r-- m::r-- o::r--')
FOR_ALL = acl(f'u::rwx u:{EVE}:rwx g::rwx m::rwx o::rwx')


# User namespaces, such as those of containers: the first number inside, the first one
# outside, and how many are mapped (user_namespaces(7)).
ALONE = f'{BOB} {BOB} 1'
CONTAINER = f'0 {BOB} 65536'  # Alice is not in it, the others are
ALL = f'0 0 {2**32 - 1}'


def in_a_namespace(function: Callable[[], Any], numbers: str, uid: int = 0) -> Any:
    """Call a function where only these users and groups have numbers. Needs root.

    For all others, chown(2) and setting an access control list fail with EINVAL there.
    """

    def call() -> Any:
        os.setgroups([])
        ready, is_ready = os.pipe()
        process = os.getpid()
        if not (helper := os.fork()):  # stays outside, where root may set the numbers
            os.read(ready, 1)
            for kind in 'uid', 'gid':
                Path(f'/proc/{process}/{kind}_map').write_text(numbers)
            os._exit(0)
        call_libc('unshare', 0x10000000)  # CLONE_NEWUSER
        os.write(is_ready, b'1')
        assert os.waitpid(helper, 0)[1] == 0
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        return function()

    return in_child(call)
