"""Import and export of other programs' files: imported files are not trusted, exported files are read back.

Imports everything up to `prediction`.
"""

from specnet.interop.exporting import Exported, export
from specnet.interop.imported_model import Imported
from specnet.interop.importing import import_model

__all__ = ["Exported", "Imported", "export", "import_model"]
