"""A commit works wherever a temporary file can be renamed, on real file systems.

Each command below mounts a file system. It runs in a folder with an empty file `disk`,
the empty folders `mounted`, `upper` and `work`, and a folder `source` with a file in
it. For comparison, the tests do the same with plain atomicwrites. `pytest -s` shows the
results. $COMMITS is the number of commits in a row.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import atomicwrites
import pytest
from people import ALICE, TEAM
from support import command, linux, root

import atomic_store

pytestmark = [linux, root]

COMMITS = int(os.environ.get('COMMITS', '10'))
FILE_SYSTEMS = {
    'tmpfs': 'mount -t tmpfs tmpfs mounted',
    'ext2': 'mkfs.ext2 -q disk; mount -o loop disk mounted',
    'ext4': 'mkfs.ext4 -q disk; mount -o loop disk mounted',
    'xfs': 'mkfs.xfs -q disk; mount -o loop disk mounted',
    'btrfs': 'mkfs.btrfs -q disk; mount -o loop disk mounted',
    'squashfs': 'mksquashfs source image -quiet -no-progress; mount -o loop image mounted',
    'overlay': (
        'mount -t tmpfs tmpfs work; mkdir work/upper work/work; mount -t overlay'
        ' -o lowerdir=source,upperdir=work/upper,workdir=work/work overlay mounted'
    ),
    'bindfs': 'bindfs source mounted',
    'bindfs --chmod-deny': 'bindfs --chmod-deny source mounted',
    'bindfs --chmod-ignore': 'bindfs --chmod-ignore source mounted',
    'bindfs --chown-deny': 'bindfs --chown-deny --chgrp-deny source mounted',
    'bindfs --xattr-none': 'bindfs --xattr-none source mounted',
    'bindfs --perms': 'bindfs --perms=0644:u+D --force-user=nobody source mounted',
    'rclone': 'rclone mount --daemon :local:source mounted',
    # This talks directly to the server that sshfs would start through ssh.
    'sshfs': (
        'echo exec /usr/lib/openssh/sftp-server >sftp; chmod +x sftp;'
        ' sshfs -o ssh_command=$PWD/sftp here:$PWD/source mounted'
    ),
    'fuse-overlayfs': (
        'fuse-overlayfs -o lowerdir=source,upperdir=upper,workdir=work mounted'
    ),
    'unionfs-fuse': 'unionfs -o cow upper=RW:source=RO mounted',
    'mergerfs': 'mergerfs source:upper mounted',
    # With a relative path, the list of mounts would only say "disk". In another test,
    # mkfs.btrfs would take that for its own disk.
    'fuse2fs': 'mkfs.ext2 -q disk; fuse2fs $PWD/disk mounted',
    'ntfs-3g': 'mkntfs --fast --force --quiet disk; ntfs-3g disk mounted',
    'ntfs-3g, permissions': (
        'mkntfs --fast --force --quiet disk; ntfs-3g -o permissions,acl disk mounted'
    ),
    'exfat-fuse': (
        'mkfs.exfat disk; device=$(losetup --find --show disk);'
        ' mount.exfat-fuse $device mounted; losetup --detach $device'
    ),
    'disorderfs': 'disorderfs --multi-user=yes source mounted',
    'fuse-zip': 'fuse-zip archive.zip mounted',
    'securefs': 'securefs create --pass x upper; securefs mount -b --pass x upper mounted',
    'encfs': 'echo x | encfs --standard --stdinpass $PWD/upper $PWD/mounted',
    'rclone, cached': 'rclone mount --daemon --vfs-cache-mode full --cache-dir upper :local:source mounted',
    'rclone, crypt': 'rclone mount --daemon :crypt,remote=source,password=OaTxA6HRXYtqTgbcnYaJpi1i9A: mounted',
    'archivemount': 'tar --create --file archive source; archivemount archive mounted',
    'posixovl': 'mount.posixovl -S source mounted',
    'convmvfs': 'convmvfs mounted -o srcdir=source',
    'gocryptfs': (
        'gocryptfs -q -init -extpass echo -extpass x upper;'
        ' gocryptfs -q -extpass echo -extpass x upper mounted'
    ),
}
if os.path.exists('/sys/fs/ext4/features/casefold'):
    FILE_SYSTEMS['ext4, casefold'] = (
        'mkfs.ext4 -q -O casefold disk; mount -o loop disk mounted;'
        ' mkdir mounted/folder; chattr +F mounted/folder'
    )
KNOWN = Path('/proc/filesystems').read_text().split()
if 'cifs' in KNOWN:
    FILE_SYSTEMS['SMB'] = (
        'smbd --daemon --configfile=smb.conf;'
        ' until mount.cifs //127.0.0.1/source mounted -o guest,port=4450; do :; done'
    )
if 'nfs4' in KNOWN:
    # The server opens files by handle (open_by_handle_at(2)). The tests may run on an
    # overlay, where that does not work by default, so the server gets a disk. Over NFS
    # 4.2, it returned wrong content for renamed files, even with plain atomicwrites.
    FILE_SYSTEMS['NFS'] = (
        'mkfs.ext4 -q disk; mount -o loop disk source; mkdir source/folder;'
        ' ganesha.nfsd -f $PWD/nfs.conf -p $PWD/nfsd.pid -L $PWD/nfsd.log;'
        ' until mount.nfs4 127.0.0.1:/source mounted -o port=4451,vers=4.1; do :; done'
    )
SMB_CONF = """
[global]
    smb ports = 4450
    interfaces = lo
    bind interfaces only = yes
    map to guest = bad user
    guest account = root
    private dir = {base}
    state directory = {base}
    cache directory = {base}
    lock directory = {base}
    pid directory = {base}
    ncalrpc dir = {base}/rpc
    log file = {base}/smbd.log
[source]
    path = {base}/source
    guest ok = yes
    read only = no
"""
NFS_CONF = """
NFS_CORE_PARAM {{
    NFS_Port = 4451;
    Protocols = 4;
    Enable_UDP = false;
    Enable_NLM = false;
    Enable_RQUOTA = false;
}}
NFSv4 {{ RecoveryRoot = {base}; Graceless = true; Only_Numeric_Owners = true; }}
EXPORT {{
    Export_Id = 1;
    Path = {base}/source;
    Pseudo = /source;
    Squash = none;
    SecType = sys;
    FSAL {{ Name = VFS; }}
    CLIENT {{ Clients = 127.0.0.1; Access_Type = RW; }}
}}
"""
# If the mode cannot be set, the file stays as it was created: for its owner only.
NOT_KEPT = {'bindfs --chmod-deny': {'mode'}, 'bindfs --chmod-ignore': {'mode'}}


@contextlib.contextmanager
def a_file_system(base: Path, script: str) -> Iterator[Path]:
    """Mount a file system, and yield a folder in it."""
    for name in 'mounted', 'source/folder', 'upper', 'work':
        (base / name).mkdir(parents=True)
    make_old_file(base / 'source/folder/lower.json')
    (base / 'smb.conf').write_text(SMB_CONF.format(base=base))
    (base / 'nfs.conf').write_text(NFS_CONF.format(base=base))
    with open(base / 'disk', 'wb') as disk:
        disk.truncate(320 << 20)  # mkfs.xfs refuses less
    try:
        with open(base / 'log', 'wb') as log:  # servers would keep a pipe open
            subprocess.run(
                script,
                check=False,
                shell=True,
                cwd=base,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                timeout=60,
            )
        assert os.path.ismount(base / 'mounted'), (base / 'log').read_text()
        folder = base / 'mounted/folder'
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
        yield folder
    finally:
        points = re.findall(rf'{base}\S*', Path('/proc/self/mounts').read_text())
        for point in reversed(points):
            subprocess.run(['umount', '--lazy', point], check=False)
        (base / 'disk').unlink()
        for server in base.glob('*.pid'):
            os.kill(int(server.read_text()), signal.SIGTERM)


def make_old_file(path: Path) -> None:
    path.write_text('"old"')
    # Not every file system supports or keeps all of these.
    with contextlib.suppress(OSError):
        os.setxattr(path, 'user.note', b'any')
    with contextlib.suppress(OSError):
        path.chmod(0o640)
    with contextlib.suppress(OSError):
        os.chown(path, ALICE, TEAM)


# The two ways to replace a file

Write = Callable[[Path, str], None]


def plain(path: Path, value: str) -> None:
    with atomicwrites.atomic_write(path, overwrite=True) as file:
        json.dump(value, file)


def store(path: Path, value: str) -> None:
    with atomic_store.open(path) as opened:
        opened.value = value


# What both have to do


def create(folder: Path, write: Write) -> None:
    write(folder / 'new.json', 'new')
    assert load(folder / 'new.json') == 'new'


def replace(folder: Path, write: Write) -> None:
    path = folder / 'old.json'
    make_old_file(path)
    before = path.stat().st_mode
    write(path, 'new')
    assert load(path) == 'new'
    assert path.stat().st_mode & 0o077 & ~before == 0


def replace_lower(folder: Path, write: Write) -> None:
    """Replace a file that was in the folder before it was mounted."""
    path = folder / 'lower.json'
    if path.exists():
        write(path, 'new')
        assert load(path) == 'new'


def follow(folder: Path, write: Write) -> None:
    """Write through a symbolic link, if the file system has such links."""
    path, link = folder / 'target.json', folder / 'link.json'
    path.write_text('"old"')
    with contextlib.suppress(OSError):
        link.symlink_to('target.json')
    if link.is_symlink():
        write(link, 'new')
        assert load(link) == 'new'


def many_times(folder: Path, write: Write) -> None:
    for number in range(COMMITS):
        write(folder / 'many.json', f'{number}')
        assert load(folder / 'many.json') == f'{number}'


def beside_a_reader(folder: Path, write: Write) -> None:
    path = folder / 'read.json'
    write(path, 'value 0')
    running = True

    def read() -> set[str]:
        values = set()
        while running:
            with contextlib.suppress(OSError):  # with rclone, for example
                values.add(load(path))
        return values

    with ThreadPoolExecutor() as threads:
        reader = threads.submit(read)
        try:
            for number in range(10):
                write(path, f'value {number}')
        finally:
            running = False
    assert reader.result() <= {f'value {number}' for number in range(10)}


STEPS = (create, replace, replace_lower, follow, many_times, beside_a_reader)


# These also fail with plain atomicwrites.
CANNOT = {
    'squashfs': {step.__name__ for step in STEPS},
    # A file renamed over another one gets the other's content.
    'archivemount': {'replace', 'many_times', 'beside_a_reader'},
    # A reader sometimes gets garbage while a file is replaced.
    'encfs': {'beside_a_reader'},
}


def load(path: Path) -> Any:
    return atomic_store.open(path, 'default').value


def failures(folder: Path, write: Write) -> dict[str, str]:
    found = {}
    for step in STEPS:
        try:
            step(folder, write)
        except (OSError, ValueError, AssertionError) as error:
            found[step.__name__] = repr(error).partition('\n')[0]
    return found


def commit_and_look(folder: Path) -> tuple[set[str], bool]:
    """Find out what a commit loses, and whether the temporary file has a name."""
    path, names = folder / 'kept.json', list[str]()
    make_old_file(path)

    def dump(value: str, file: Any) -> None:
        names.extend(os.listdir(folder))
        json.dump(value, file)

    def look() -> dict[str, object]:
        status = path.stat()
        attribute = None
        with contextlib.suppress(OSError):
            attribute = os.getxattr(path, 'user.note')
        return {
            'mode': status.st_mode,
            'owner': status.st_uid,
            'group': status.st_gid,
            'attribute': attribute,
        }

    before = look()
    json_format = SimpleNamespace(dump=dump, load=json.load)
    atomic_store.open(path, format=json_format, is_binary=False).commit()
    after = look()
    changed = {what for what in before if after[what] != before[what]}
    return changed, not all(name.endswith('.json') for name in names)


def programs(script: str) -> set[str]:
    starts = r'(?:^|[;(|]|exec|until) *(?!until|do\b)'
    return set(re.findall(rf'{starts}([\w./-]+) ', script))


@pytest.mark.parametrize(
    'name',
    [
        pytest.param(
            name,
            marks=[command(program) for program in sorted(programs(script))],
        )
        for name, script in FILE_SYSTEMS.items()
    ],
)
def test_a_commit_works_wherever_plain_atomicwrites_does(
    name: str, tmp_path: Path
) -> None:
    with a_file_system(tmp_path, FILE_SYSTEMS[name]) as folder:
        theirs = failures(folder, plain)
        ours = failures(folder, store)
        print(f'{name}: plain {theirs or "works"}; commits {ours or "work"}')
        assert ours.keys() <= CANNOT.get(name, set())
        # What a reader finds is a matter of chance.
        assert ours.keys() - {'beside_a_reader'} <= theirs.keys()
        if name == 'squashfs':
            assert all('Read-only file system' in failure for failure in ours.values())
            return
        changed, is_named = commit_and_look(folder)
        print(
            f'  {"named" if is_named else "unnamed"}, not kept: {changed or "nothing"}'
        )
        assert changed == NOT_KEPT.get(name, set())
        # libfuse hides a file that is removed while it is open.
        left = [n for n in os.listdir(folder) if not n.startswith('.fuse_hidden')]
        assert not [name for name in left if not name.endswith('.json')]
