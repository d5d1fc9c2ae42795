"""What the analysis looks for. To add a detection, declare it in a file of its own and list it here."""

from services.analysis.detection import Detection
from services.analysis.detections.broken_chain import BROKEN_CHAIN
from services.analysis.detections.cloned_identity import CLONED_IDENTITY
from services.analysis.detections.copied_certificate import COPIED_CERTIFICATE
from services.analysis.detections.disk_full import DISK_FULL
from services.analysis.detections.disk_space import DISK_SPACE
from services.analysis.detections.distrusted_source import DISTRUSTED_SOURCE
from services.analysis.detections.forged_batch import FORGED_BATCH
from services.analysis.detections.memory_pressure import MEMORY_PRESSURE
from services.analysis.detections.product_silent import PRODUCT_SILENT
from services.analysis.detections.refused_batch import REFUSED_BATCH
from services.analysis.detections.source_silent import SOURCE_SILENT
from services.analysis.detections.stream_gap import STREAM_GAP

DETECTIONS: tuple[Detection, ...] = (
    DISK_SPACE,
    DISK_FULL,
    MEMORY_PRESSURE,
    SOURCE_SILENT,
    PRODUCT_SILENT,
    CLONED_IDENTITY,
    COPIED_CERTIFICATE,
    DISTRUSTED_SOURCE,
    FORGED_BATCH,
    REFUSED_BATCH,
    BROKEN_CHAIN,
    STREAM_GAP,
)
