"""Training: recipes, losses, and a loop that resumes to the bit."""

from pna.train.assemble import train
from pna.train.faults import TrainingError
from pna.train.recipe import Recipe
from pna.train.recipe_files import bundled_recipes, dump_recipe, load_recipe

__all__ = ["Recipe", "TrainingError", "bundled_recipes", "dump_recipe", "load_recipe", "train"]
