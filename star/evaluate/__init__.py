"""Measuring: features of images, distances between sets of them, and what a frozen model knows of classes."""
