"""`labrecon train`: a network for an instrument, from objects to a folder with model and report."""

from labrecon.train.recipe import TrainRecipe, load_train_recipe
from labrecon.train.run import TrainResult, train

__all__ = ["TrainRecipe", "TrainResult", "load_train_recipe", "train"]
