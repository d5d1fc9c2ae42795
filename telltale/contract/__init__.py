"""What descriptors say: data products and their promises, schemas by digest, reflection."""

from telltale.contract.image import Image, own_image
from telltale.contract.product import Contract, contracts_in
from telltale.contract.schema import Schema, incompatibilities, message_class
from telltale.contract.shared import check_shared_files

__all__ = [
    "Image",
    "own_image",
    "Contract",
    "contracts_in",
    "Schema",
    "check_shared_files",
    "incompatibilities",
    "message_class",
]
