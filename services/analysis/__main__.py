"""Runs the analysis service: `python -m services.analysis`."""

from services.analysis.service import run
from services.analysis.settings import AnalysisSettings
from telltale import process
from telltale.buffers import keep_freed_buffers
from telltale.settings import read_or_exit

if __name__ == "__main__":
    settings = read_or_exit(AnalysisSettings, "Finds what is wrong in everybody's data products.")
    keep_freed_buffers()
    process.run(lambda stopping: run(settings, stopping))
