"""Scoring of anybody's label maps, and of models on another source's studies."""
