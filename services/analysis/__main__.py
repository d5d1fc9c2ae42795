"""Runs the analysis service: `python -m services.analysis`."""

from services.analysis.service import run
from services.analysis.settings import AnalysisSettings
from telltale import process
from telltale.settings import read_or_exit

if __name__ == "__main__":
    settings = read_or_exit(AnalysisSettings, "Finds what is wrong in everybody's data products.")
    process.run(lambda stopping: run(settings, stopping), moves_frames=True)
