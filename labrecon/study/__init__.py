"""`labrecon design`: an acquisition learned, hardened, compared with the usual ones, exported."""

from labrecon.study.recipe import DesignRecipe
from labrecon.study.run import StudyResult, design

__all__ = ["DesignRecipe", "StudyResult", "design"]
