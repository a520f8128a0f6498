"""Puts recipes and guides, which lie beside the code in a checkout, into a wheel; pyproject.toml has all the rest."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SHIPPED = (
    ("recipes", "examples/recipes/*.yaml"),
    ("guides", "docs/new_*.md"),
    ("guides", "docs/hub.md"),
    ("guides", "docs/security.md"),
)


class BuildWithRecipesAndGuides(build_py):
    """Copies them into the package that is built; an editable one reads them where they are."""

    def _shipped(self):
        for folder, pattern in SHIPPED:
            for path in sorted(Path().glob(pattern)):
                yield path, Path(self.build_lib, "neumeta_hf", folder, path.name)

    def run(self):
        super().run()
        if not self.editable_mode:
            for path, copy in self._shipped():
                self.mkpath(str(copy.parent))
                self.copy_file(str(path), str(copy), preserve_mode=False)

    def get_source_files(self):  # what an sdist needs of them
        return [*super().get_source_files(), *(str(path) for path, _ in self._shipped())]

    def get_outputs(self, include_bytecode=1):
        copies = [] if self.editable_mode else [str(copy) for _, copy in self._shipped()]
        return [*super().get_outputs(include_bytecode), *copies]


setup(cmdclass={"build_py": BuildWithRecipesAndGuides})
