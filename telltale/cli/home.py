"""Where a mesh on one machine keeps its things, and the addresses of the one that runs there now."""

import fcntl
import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from telltale.errors import ConfigurationError, Precondition

DEFAULT = Path(".telltale")
WRITER = "writer"
DATABASE = "telltale.db"


@dataclass(frozen=True)
class Mesh:
    """The mesh that runs in a home: its name and where the command line finds it."""

    name: str
    gateway: str
    # The authority of the operators: where tokens are issued, and where identities enrol.
    authority: str
    enrollment: str
    # Process that supervises it.
    pid: int
    # The authority of each domain: where operators ask for join tokens.
    authorities: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Home:
    """A directory for one mesh. Every process has a directory of its own below it."""

    path: Path
    # Name of the login that commands act as; the only one when empty.
    person: str = ""

    @classmethod
    def at(cls, path: str | Path) -> "Home":
        return cls(Path(path).expanduser().resolve())

    @property
    def trust(self) -> Path:
        """Root certificate and token keys, for everybody to read."""
        return self.path / "trust"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def database(self) -> Path:
        """What the writer stores and `telltale query` reads."""
        return self.state(WRITER) / DATABASE

    def authority(self, domain: str) -> Path:
        """Keys of a domain's authority, as `certs init` makes them."""
        return self.path / "authorities" / domain

    def state(self, process: str) -> Path:
        """Directory of one process: its key, certificate, spool or log."""
        return self.path / "state" / process

    def credentials(self, name: str) -> Path:
        """Directory of one operator's key, certificate and token."""
        return self.path / "credentials" / name

    @property
    def logins(self) -> Path:
        """Directory of the people who have logged in on this machine, and of where they do."""
        return self.path / "logins"

    def create(self) -> None:
        """Makes the home, which nobody but its owner may enter; one that is there keeps its mode."""
        try:
            if private_directory(self.path).stat().st_mode & stat.S_IWOTH:
                raise ConfigurationError(
                    f"everybody may write to {self.path}, so it is no place for keys; choose another --home"
                )
            private_directory(self.logs)
        except OSError as refused:
            raise ConfigurationError(
                f"{self.path} cannot be a mesh's home: {refused.strerror}; choose another --home"
            ) from None

    def write_mesh(self, mesh: Mesh) -> None:
        """Tells the command line where the mesh is."""
        unfinished = self._mesh_file.with_suffix(".new")
        unfinished.write_text(json.dumps(asdict(mesh), indent=2) + "\n", encoding="utf-8")
        unfinished.replace(self._mesh_file)

    def mesh(self) -> Mesh:
        """The mesh that runs here; raises Precondition when none does."""
        try:
            mesh = Mesh(**json.loads(self._mesh_file.read_text(encoding="utf-8")))
            if self._is_locked():
                return mesh
            # Its supervisor was killed before it could remove the file.
            raise FileNotFoundError
        except FileNotFoundError:
            raise Precondition(f"no mesh runs in {self.path}; start one with `telltale up`") from None
        except (ValueError, TypeError):
            raise ConfigurationError(f"{self._mesh_file} is damaged; run `telltale up` again") from None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the home for one supervisor; raises Precondition when another has it."""
        with open(self._lock_file, "a+", encoding="ascii") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                owner = file.read().strip() or "unknown"
                raise Precondition(
                    f"a mesh already runs in {self.path} (process {owner}); stop it, or choose another --home"
                ) from None
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
            self._mesh_file.unlink(missing_ok=True)
            try:
                yield
            finally:
                self._mesh_file.unlink(missing_ok=True)
                file.truncate(0)

    def _is_locked(self) -> bool:
        try:
            with open(self._lock_file, encoding="ascii") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    return True
        except FileNotFoundError:
            pass
        return False

    @property
    def _mesh_file(self) -> Path:
        return self.path / "mesh.json"

    @property
    def _lock_file(self) -> Path:
        return self.path / "lock"


def private_directory(path: Path) -> Path:
    """Makes a directory that only its owner may enter; one that exists is somebody's choice and stays."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path
