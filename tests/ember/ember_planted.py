"""Settings that fit the planted model's few tokens."""

from shammie.ember.settings import EmberSettings, FactorizationSettings

SETTINGS = EmberSettings(
    factorizations=3, least_keyness=0.0, factorization=FactorizationSettings(features=24, share=0.06)
)
FLAGS = ("--factorizations", 3, "--least-keyness", 0, "--features", 24, "--share", 0.06)
