"""Files of other programs: what comes in is checked as if a stranger had made it, what goes out is read back."""

from specnet.interop.exporting import Exported, export
from specnet.interop.imported_model import Imported
from specnet.interop.importing import import_model

__all__ = ["Exported", "Imported", "export", "import_model"]
