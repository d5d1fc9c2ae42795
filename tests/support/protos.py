"""Compiles proto text as the build does: what a team writes becomes an image."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from grpc_tools import protoc

from telltale.contract.image import Image

PROTOS = Path(__file__).parents[2] / "protos"
WELL_KNOWN = Path(protoc.__file__).parent / "_proto"


def compile_set(files: Mapping[str, str], *, source_info: bool = True) -> bytes:
    """The FileDescriptorSet of these files, by name, and of everything that they import from `protos/`."""
    with TemporaryDirectory() as scratch:
        for name, text in files.items():
            path = Path(scratch, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        image = Path(scratch, "image.binpb")
        arguments = [
            "protoc",
            f"-I{scratch}",
            f"-I{PROTOS}",
            f"-I{WELL_KNOWN}",
            "--include_imports",
            f"--descriptor_set_out={image}",
            *(["--include_source_info"] if source_info else []),
            *files,
        ]
        if protoc.main(arguments) != 0:
            raise ValueError("the compiler refused the files above")
        return image.read_bytes()


def compile_image(files: Mapping[str, str]) -> Image:
    """The image of these files and all that they import."""
    return Image(compile_set(files))
