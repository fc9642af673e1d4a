"""The store: a value and its file. Only this module knows both formats and files."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Generic, Self

from . import _files, _notes, _replacement
from ._formats import FileFormat, Format, find_format

if TYPE_CHECKING:
    # Type checkers know this module even if it is not installed.
    from typing_extensions import TypeVar

    _Value = TypeVar('_Value', default=Any)
else:
    from typing import TypeVar

    _Value = TypeVar('_Value')

StrOrBytesPath = str | bytes | os.PathLike[str] | os.PathLike[bytes]


def open(
    path: StrOrBytesPath,
    default: Any = None,
    format: Format = None,
    is_binary: bool | None = None,
    load_kwargs: dict[str, Any] | None = None,
    dump_kwargs: dict[str, Any] | None = None,
    ignore_inner_exits: bool | None = False,
) -> AtomicStore:
    """Open a store: load its value from a file.

    The file is read once. Nothing is created or written before the first commit. Use
    the store in a ``with`` block, or call its `AtomicStore.commit`. To read only, use
    no block: ``atomic_store.open(path).value``.

    Parameters
    ----------
    path : str, bytes or os.PathLike
        The file. Symbolic links are followed. Its folder must exist by the first
        commit. A new file gets the permissions that the umask allows, and keeps them.
    default : object, optional
        The value if there is no file: the object itself, not a copy. Give ``{}``, not
        the class ``dict``. This is not a mode: ``'w'`` would be the value.
    format : str, module, class or instance, optional
        How the value is written:

        - ``None``, ``'json'`` or the module `json`: exactly what `json.dumps` returns;
        - ``'pickle'``: the module `pickle`. Never load a pickle that somebody else may
          have written: it can run any code;
        - ``'bson'``: the package of that name, the standalone one or PyMongo's;
        - anything with ``dump(value, file)`` and ``load(file)``, ``dumps(value)`` and
          ``loads(data)``, or ``encode(value)`` and ``decode(data)``. The first pair it
          has is used. In a class, these must be static or class methods. A subclass of
          `AbstractFormatFile` or `AbstractFormatBstr` is instantiated.
    is_binary : bool, optional
        Whether the format works on ``bytes``, not ``str``. The default is ``False`` for
        JSON, otherwise ``True``. PyYAML, for example, needs ``False``. Text is UTF-8,
        and line endings are not translated.
    load_kwargs, dump_kwargs : dict, optional
        Keyword arguments for loading and dumping. The dicts are kept, not copied.
    ignore_inner_exits : bool, optional
        Whether only the outermost of nested ``with`` blocks commits.

    Returns
    -------
    AtomicStore
        The store. Its value is `AtomicStore.value`.

    Raises
    ------
    TypeError
        If `path` is of another type.
    ValueError
        If `format` is unknown or not installed, or `path` contains a NUL character.
    OSError
        If the file cannot be read. A missing file is not an error.
    Exception
        Whatever the format raises for a file that it cannot load, such as an empty one:
        `json.JSONDecodeError` for JSON. Notes name the file, and may say what to do.

    Examples
    --------
    >>> import atomic_store
    >>> with atomic_store.open('state.json', default={}) as store:
    ...     store.value['theme'] = 'dark'
    >>> atomic_store.open('state.json').value
    {'theme': 'dark'}
    """
    found, wants_binary = find_format(format)
    is_binary = wants_binary if is_binary is None else is_binary
    return AtomicStore(
        path, default, found, is_binary, load_kwargs, dump_kwargs, ignore_inner_exits
    )


class AtomicStore(Generic[_Value]):
    """A value in memory, and the file that it is committed to. Call `open` to get one.

    The parameters are those of `open`, but `format` is an object with `dump` and
    `load`, and `is_binary` is a bool. All except `default` are also attributes. If you
    assign to one, the next commit uses it. Two more attributes are `value`, and `level`,
    the number of ``with`` blocks that are open.

    A ``with`` block commits when it ends, even if the value has not changed. If an
    exception ends it, nothing is committed, and the exception propagates: Ctrl-C, a
    cancelled task, ``sys.exit(1)``, a generator that is closed early. The value keeps
    its changes. Only a `SystemExit` whose code is ``None`` or ``0`` commits. Each of
    several nested blocks commits, or, with `ignore_inner_exits`, only the outermost. An
    inner block that fails skips only its own commit.

    There is no lock. If two stores have the same path, each commit is whole, and the
    later one wins. Use a store in one thread at a time. Type checkers see the value as
    `Any`, unless you declare ``store: AtomicStore[Settings]``. This converts nothing.

    Examples
    --------
    >>> import atomic_store
    >>> store = atomic_store.open('nested.json', ignore_inner_exits=True)
    >>> with store:
    ...     with store:
    ...         store.value = 'inner'
    ...     store.value = 'outer'
    >>> atomic_store.open('nested.json').value
    'outer'
    """

    def __init__(
        self,
        path: StrOrBytesPath,
        default: Any,
        format: FileFormat,
        is_binary: bool,
        load_kwargs: dict[str, Any] | None,
        dump_kwargs: dict[str, Any] | None,
        ignore_inner_exits: bool | None,
    ) -> None:
        # Editors show the strings. The other attributes are parameters of open().
        self.path = path
        self.format = format
        """An object with `dump` and `load`, never a name."""
        self.is_binary = is_binary
        self.load_kwargs = {} if load_kwargs is None else load_kwargs
        self.dump_kwargs = {} if dump_kwargs is None else dump_kwargs
        self.ignore_inner_exits = bool(ignore_inner_exits)
        self.level = 0
        """How many ``with`` blocks are open."""
        self.value: _Value = self._load(default)
        """The value. Change it, or assign another one, before the next commit."""

    @property
    def path(self) -> StrOrBytesPath:
        """The file, as given. It stays the same if the working folder changes."""
        return self._path

    @path.setter
    def path(self, path: StrOrBytesPath) -> None:
        self._relative = self._absolute = os.fsdecode(path)
        self._folder: str | None = None  # that of a relative path
        # On Windows, `C:name` needs that drive's folder, and `\\name` needs a drive.
        if os.name == 'nt' or not os.path.isabs(self._relative):
            drive = os.path.splitdrive(self._relative)[0]
            try:
                self._folder = os.path.abspath(drive)
            except OSError as error:
                if not os.stat(os.curdir).st_nlink:
                    _notes.add(error, f'{path!r} is relative to a deleted folder')
                    raise
                self._folder = ''  # it has no path, or may not be asked for it
            self._absolute = os.path.join(self._folder, self._relative)
            self._folder_id = _identity(os.curdir)
        self._path = path

    def _target(self) -> str:
        """The absolute path, or the relative one if a parent has moved or is closed."""
        is_moved = (
            self._folder
            and os.name != 'nt'
            and _identity(self._folder) != self._folder_id
            and _identity(os.curdir) == self._folder_id
        )
        return self._relative if is_moved else self._absolute

    def __repr__(self) -> str:
        return f'<AtomicStore path={self.path!r} format={self.format!r} level={self.level}>'

    def __enter__(self) -> Self:
        self.level += 1
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.level -= 1
        ends_well = error_type is None or (
            isinstance(error, SystemExit)
            and isinstance(error.code, int | None)
            and not error.code
        )
        if ends_well and not (self.level and self.ignore_inner_exits):
            self.commit()

    def commit(self) -> None:
        """Write the value to the file, atomically and durably.

        The file always holds the whole old value or the whole new one. Once this method
        returns, the new value survives a power cut (on FAT, almost always). Call it as
        often as you like, inside and outside ``with`` blocks, and again after an error.

        Raises
        ------
        OSError
            If the file cannot be replaced: the folder is missing or read-only, the disk
            is full, the path is not a regular file, and so on.
        Exception
            Whatever the format raises for a value that it cannot write.

        The notes of an error name the file, and may say what to do. The file then holds
        the old value, with nothing left beside it, unless a note says otherwise: the
        file already holds the new value, the temporary file stays, or the old file is
        gone and the temporary file holds the new value.

        After Ctrl-C, the file holds the old value or the new one. Do not commit in a
        signal handler that returns: if it interrupts a commit, that one finishes later
        and overwrites your newer value. On Windows, a commit retries for up to five
        seconds while another program has the file open.
        """
        target = self._target()
        try:
            _replacement.replace(target, self.is_binary, partial(self._dump, target))
        except Exception as error:
            _notes.explain(error, 'committing', self._absolute, self)
            raise

    def _dump(self, target: str, file: IO[Any]) -> None:
        try:
            returned = self.format.dump(self.value, file, **(self.dump_kwargs or {}))
        except Exception as error:
            _notes.explain(error, 'dumping', self._absolute, self)
            raise
        if isinstance(returned, str | bytes) and returned and _is_empty(file):
            raise TypeError('dump returned the content instead of writing it')
        # A relative path would mean another file now.
        if not os.path.isabs(target) and _identity(os.curdir) != self._folder_id:
            raise OSError('the working folder has changed, and its path is unknown')

    def _load(self, default: Any) -> Any:
        try:
            file = _files.open_to_read(self._target(), self.is_binary)
            if file is None:
                return default
            with file:
                return self.format.load(file, **self.load_kwargs)
        except Exception as error:
            _notes.explain(error, 'loading', self._absolute, self)
            raise


def _identity(folder: str) -> tuple[int, int] | None:
    """Return what identifies a folder, or None if it cannot be reached."""
    with suppress(OSError):
        status = os.stat(folder)
        return status.st_dev, status.st_ino
    return None


def _is_empty(file: IO[Any]) -> bool:
    with suppress(ValueError):  # if the format has detached the file
        file.flush()
        return os.fstat(file.fileno()).st_size == 0
    return False
