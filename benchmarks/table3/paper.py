"""The paper's correlations with BMLAMA-53 and XNLI, as its tables print them.

Tables 3, 9 and 11 have Pearson's r over languages for each of its models. Table 9 prints MEXA, NASCA and NAVCA of Table
3 once more; they are left out here. Tables 6 and 7 have Llama 3.1 8B with other pivots. The paper gives no intervals.
"""

from __future__ import annotations

from typing import NamedTuple

MODELS = (
    "Llama 3.1 8B",
    "Llama 3 8B",
    "Llama 2 7B",
    "Llama 3.2 3B",
    "Qwen 2.5 14B",
    "Qwen 2.5 7B",
    "Mistral 0.3 7B",
    "OLMo 2 7B",
    "GLM 4 9B",
)


class Row(NamedTuple):
    """A row of a table of the paper: Pearson's r over languages.

    Attributes:
        table: the table's number.
        task: "BMLAMA-53" or "XNLI".
        text: the parallel text.
        pooling: how tokens became a sentence. Table 9 does not say it; its last three rows are Table 3's weighted ones.
        method: the method.
        r: a number for each of `MODELS`; None where the table does not have the model.
        mean: the mean that the table prints (AVG).
    """

    table: int
    task: str
    text: str
    pooling: str
    method: str
    r: tuple[float | None, ...]
    mean: float


class PivotRow(NamedTuple):
    """Pearson's r of Llama 3.1 8B by pivot.

    Attributes:
        table: the table's number.
        task: the task, or the tasks whose mean the table prints.
        method: the method.
        r: a number for English, German, French and Italian; None where the table does not have the pivot.
    """

    table: int
    task: str
    method: str
    r: tuple[float | None, ...]


ROWS = (
    Row(
        3,
        "BMLAMA-53",
        "FLORES-200",
        "weighted",
        "MEXA",
        (0.6567, 0.6739, 0.8426, 0.6223, 0.7522, 0.8473, 0.8795, 0.7500, 0.6922),
        0.7463,
    ),
    Row(
        3,
        "BMLAMA-53",
        "FLORES-200",
        "weighted",
        "NASCA",
        (0.6825, 0.7187, 0.8707, 0.6748, 0.7785, 0.8575, 0.8750, 0.7975, 0.6761),
        0.7701,
    ),
    Row(
        3,
        "BMLAMA-53",
        "FLORES-200",
        "weighted",
        "NAVCA",
        (0.7285, 0.7415, 0.8924, 0.7361, 0.8046, 0.8773, 0.9062, 0.8871, 0.6850),
        0.8065,
    ),
    Row(
        3,
        "BMLAMA-53",
        "FLORES-200",
        "average",
        "MEXA",
        (0.6618, 0.6619, 0.8653, 0.6905, 0.7602, 0.8312, 0.8436, 0.8352, 0.7270),
        0.7641,
    ),
    Row(
        3,
        "BMLAMA-53",
        "FLORES-200",
        "average",
        "NASCA",
        (0.7028, 0.6529, 0.7739, 0.6712, 0.7794, 0.8196, 0.8462, 0.8441, 0.6794),
        0.7522,
    ),
    Row(
        3,
        "BMLAMA-53",
        "FLORES-200",
        "average",
        "NAVCA",
        (0.6792, 0.6797, 0.7570, 0.7099, 0.7909, 0.8584, 0.8684, 0.8962, 0.7290),
        0.7743,
    ),
    Row(
        3,
        "BMLAMA-53",
        "FLORES-200",
        "last",
        "MEXA",
        (0.6731, 0.6987, 0.7826, 0.6864, 0.6943, 0.6789, 0.8378, 0.7689, 0.6423),
        0.7181,
    ),
    Row(
        3,
        "BMLAMA-53",
        "FLORES-200",
        "last",
        "NASCA",
        (0.6731, 0.6999, 0.8651, 0.6657, 0.7786, 0.8537, 0.8690, 0.8068, 0.6565),
        0.7632,
    ),
    Row(
        3,
        "BMLAMA-53",
        "FLORES-200",
        "last",
        "NAVCA",
        (0.7202, 0.7304, 0.8906, 0.7342, 0.8074, 0.8688, 0.9076, 0.8946, 0.6737),
        0.8031,
    ),
    Row(
        9,
        "BMLAMA-53",
        "FLORES-200",
        "weighted",
        "CKA",
        (0.6694, None, 0.8280, 0.5313, None, 0.7855, 0.6893, 0.7196, 0.6662),
        0.6985,
    ),
    Row(
        9,
        "BMLAMA-53",
        "FLORES-200",
        "weighted",
        "SVCCA",
        (0.8800, None, 0.8516, 0.7039, None, 0.8608, 0.8247, 0.8234, 0.7441),
        0.8126,
    ),
    Row(
        9,
        "BMLAMA-53",
        "FLORES-200",
        "weighted",
        "ANC",
        (0.8645, None, 0.8895, 0.7239, None, 0.8663, 0.8646, 0.9156, 0.7891),
        0.8448,
    ),
    Row(
        11,
        "BMLAMA-53",
        "Tatoeba",
        "weighted",
        "MEXA",
        (0.7394, 0.7402, None, None, 0.6949, None, 0.7553, 0.7980, 0.7283),
        0.7427,
    ),
    Row(
        11,
        "BMLAMA-53",
        "Tatoeba",
        "weighted",
        "NASCA",
        (0.7223, 0.7314, None, None, 0.8074, None, 0.6982, 0.8489, 0.7304),
        0.7564,
    ),
    Row(
        11,
        "BMLAMA-53",
        "Tatoeba",
        "weighted",
        "NAVCA",
        (0.7377, 0.7434, None, None, 0.8359, None, 0.8488, 0.9158, 0.7463),
        0.8047,
    ),
    Row(
        11,
        "BMLAMA-53",
        "Tatoeba",
        "average",
        "MEXA",
        (0.7378, 0.7238, None, None, 0.8177, None, 0.8390, 0.8926, 0.7612),
        0.7954,
    ),
    Row(
        11,
        "BMLAMA-53",
        "Tatoeba",
        "average",
        "NASCA",
        (0.7266, 0.7442, None, None, 0.8085, None, 0.6698, 0.8809, 0.7263),
        0.7594,
    ),
    Row(
        11,
        "BMLAMA-53",
        "Tatoeba",
        "average",
        "NAVCA",
        (0.7450, 0.7530, None, None, 0.8383, None, 0.6683, 0.9025, 0.7815),
        0.7814,
    ),
    Row(
        11,
        "BMLAMA-53",
        "Tatoeba",
        "last",
        "MEXA",
        (0.7232, 0.7259, None, None, 0.6669, None, 0.6794, 0.8115, 0.7513),
        0.7264,
    ),
    Row(
        11,
        "BMLAMA-53",
        "Tatoeba",
        "last",
        "NASCA",
        (0.7135, 0.7106, None, None, 0.8238, None, 0.8035, 0.8633, 0.7349),
        0.7749,
    ),
    Row(
        11,
        "BMLAMA-53",
        "Tatoeba",
        "last",
        "NAVCA",
        (0.7480, 0.7479, None, None, 0.8333, None, 0.8061, 0.9108, 0.7531),
        0.7999,
    ),
    Row(
        3,
        "XNLI",
        "FLORES-200",
        "weighted",
        "MEXA",
        (0.9259, 0.9211, 0.7519, 0.9182, 0.6212, 0.6898, 0.9446, 0.9500, 0.8107),
        0.8370,
    ),
    Row(
        3,
        "XNLI",
        "FLORES-200",
        "weighted",
        "NASCA",
        (0.9309, 0.9271, 0.9639, 0.9401, 0.8647, 0.9209, 0.9583, 0.9411, 0.9467),
        0.9326,
    ),
    Row(
        3,
        "XNLI",
        "FLORES-200",
        "weighted",
        "NAVCA",
        (0.9227, 0.9283, 0.9063, 0.9430, 0.8038, 0.8415, 0.8982, 0.8777, 0.9213),
        0.8937,
    ),
    Row(
        3,
        "XNLI",
        "FLORES-200",
        "average",
        "MEXA",
        (0.7948, 0.8379, 0.7486, 0.8506, 0.7426, 0.8039, 0.9175, 0.9258, 0.8402),
        0.8291,
    ),
    Row(
        3,
        "XNLI",
        "FLORES-200",
        "average",
        "NASCA",
        (0.8332, 0.8506, 0.6420, 0.8589, 0.7574, 0.8281, 0.9373, 0.9161, 0.8575),
        0.8312,
    ),
    Row(
        3,
        "XNLI",
        "FLORES-200",
        "average",
        "NAVCA",
        (0.8243, 0.8490, 0.6253, 0.8709, 0.7270, 0.8278, 0.9100, 0.8810, 0.8570),
        0.8191,
    ),
    Row(
        3,
        "XNLI",
        "FLORES-200",
        "last",
        "MEXA",
        (0.7737, 0.8023, 0.7155, 0.8163, 0.5539, 0.6010, 0.7642, 0.9377, 0.7288),
        0.7437,
    ),
    Row(
        3,
        "XNLI",
        "FLORES-200",
        "last",
        "NASCA",
        (0.9250, 0.9248, 0.9585, 0.9387, 0.8497, 0.9143, 0.9547, 0.9305, 0.9422),
        0.9265,
    ),
    Row(
        3,
        "XNLI",
        "FLORES-200",
        "last",
        "NAVCA",
        (0.9143, 0.9248, 0.8959, 0.9408, 0.7964, 0.8384, 0.8915, 0.8635, 0.9181),
        0.8871,
    ),
    Row(
        9,
        "XNLI",
        "FLORES-200",
        "weighted",
        "CKA",
        (0.6694, None, 0.6612, 0.6879, None, 0.4022, 0.6604, 0.8944, 0.6601),
        0.6622,
    ),
    Row(
        9,
        "XNLI",
        "FLORES-200",
        "weighted",
        "SVCCA",
        (0.8800, None, 0.8846, 0.9144, None, 0.7610, 0.8897, 0.8714, 0.8797),
        0.8687,
    ),
    Row(
        9,
        "XNLI",
        "FLORES-200",
        "weighted",
        "ANC",
        (0.8645, None, 0.8815, 0.9082, None, 0.7751, 0.8784, 0.8534, 0.8775),
        0.8627,
    ),
)

PIVOTS = ("English", "German", "French", "Italian")
BY_PIVOT = (
    PivotRow(6, "m-ARC, m-MMLU, Belebele", "MEXA", (0.9585, 0.9250, 0.9389, 0.9356)),
    PivotRow(6, "m-ARC, m-MMLU, Belebele", "NASCA", (0.9621, 0.9287, 0.9460, 0.9428)),
    PivotRow(7, "XNLI", "MEXA", (0.9259, 0.8993, None, None)),
    PivotRow(7, "XNLI", "NASCA", (0.9309, 0.8986, None, None)),
    PivotRow(7, "BMLAMA-53", "MEXA", (0.6567, 0.5613, None, None)),
    PivotRow(7, "BMLAMA-53", "NASCA", (0.6825, 0.6656, None, None)),
)
