"""Compiles protos that exist for a test only."""

from importlib import resources
from pathlib import Path

from grpc_tools import protoc

from telltale.contract.image import Image

PROTOS = Path(__file__).parents[2] / "protos"


def compile_product(directory: Path, domain: str, file: str, text: str) -> Image:
    """The image of a proto that lies at telltale/api/<domain>/v1/<file> below a directory."""
    source = directory / "telltale" / "api" / domain / "v1" / file
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_text(text)
    output = directory / f"{domain}-{file}.binpb"
    google = resources.files("grpc_tools") / "_proto"
    status = protoc.main(
        [
            "protoc",
            f"-I{directory}",
            f"-I{PROTOS}",
            f"-I{google}",
            "--include_imports",
            "--include_source_info",
            f"--descriptor_set_out={output}",
            str(source),
        ]
    )
    if status != 0:
        raise RuntimeError(f"{source} does not compile")
    return Image.load(output)
