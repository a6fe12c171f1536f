"""Puts experiments/ into wheels, as star_examples/, from where `star-exp init` writes them; the rest is in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class WithExamples(build_py):
    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            shutil.copytree("experiments", Path(self.build_lib) / "star_examples", dirs_exist_ok=True)


setup(cmdclass={"build_py": WithExamples})
