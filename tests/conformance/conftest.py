"""Keras computes with JAX here: it has to be told before it is imported."""

import os

os.environ["KERAS_BACKEND"] = "jax"
