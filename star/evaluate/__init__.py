"""Evaluation: features of images, distances between sets of images, attention, and linear probes of frozen models."""
