"""Recommender models: twins in torch and Keras."""
