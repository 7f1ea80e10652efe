"""`labrecon adapt`: a trained network for an instrument that has drifted since."""

from labrecon.adapt.recipe import AdaptRecipe, load_adapt_recipe
from labrecon.adapt.run import AdaptResult, adapt

__all__ = ["AdaptRecipe", "AdaptResult", "adapt", "load_adapt_recipe"]
