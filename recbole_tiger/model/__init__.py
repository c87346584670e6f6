"""Recommenders in RecBole's form."""
