"""Left and right keypoints by their names, in many languages and scripts.

Flipped images are labelled correctly only if all pairs are known. If names may be a pair but no rule decides, the sides
of the skeleton are unknown and images are not flipped.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import combinations
from os.path import commonprefix
from typing import NamedTuple

Pairs = tuple[tuple[str, str], ...]

# Words for left and for right, with inflections and abbreviations, one row per language.
_LANGUAGES = (
    ("left", "right"),  # English
    ("izquierda izquierdo izq izqda izqdo izda izdo", "derecha derecho der dcha dcho dch derech"),  # Spanish
    ("gauche gch", "droite droit drt dte"),  # French
    ("links linke linker linkes linken li", "rechts rechte rechter rechtes rechten re"),  # German, Dutch
    ("sinistra sinistro sinistri sinistre sx sin", "destra destro destri destre dx des dex"),  # Italian
    ("sinister sinistrum", "dexter dextra dextrum"),  # Latin
    ("esquerda esquerdo esq", "direita direito dir"),  # Portuguese, Galician
    ("esquerra esquerre", "dreta dret"),  # Catalan
    ("stang stanga stangul", "drept dreapta dreptul"),  # Romanian
    ("vanster vanstra venstre", "hoger hogra hojre hoyre"),  # Swedish, Danish, Norwegian
    ("vinstri", "haegri hægri"),  # Icelandic
    ("vasen vasemman", "oikea oikean"),  # Finnish
    ("vasak", "parem"),  # Estonian
    ("bal", "jobb"),  # Hungarian
    ("sol", "sag sağ"),  # Turkish
    ("lewy lewa lewe lewo", "prawy prawa prawe prawo"),  # Polish
    ("levy leva leve levo lavy lava lave lavo lijevi lijeva lijevo levi", "pravy prava prave pravo desni desna desno"),
    ("левый левая левое левые лев л", "правый правая правое правые прав п пр"),  # Russian
    ("лівий ліва ліве", "правий права праве"),  # Ukrainian
    ("ляв лява ляво", "десен дясна дясно"),  # Bulgarian
    ("леви лева лево", "десни десна десно"),  # Serbian
    ("αριστερα αριστερο αριστερη αριστερος αρ", "δεξια δεξιο δεξι δεξιος δεξιη δε"),  # Greek
    ("يسار اليسار أيسر الأيسر ايسر الايسر يسرى اليسرى", "يمين اليمين أيمن الأيمن ايمن الايمن يمنى اليمنى"),  # Arabic
    ("چپ", "راست"),  # Persian
    ("بائیں بایاں", "دائیں دایاں"),  # Urdu
    ("שמאל שמאלי שמאלית", "ימין ימני ימנית"),  # Hebrew
    ("बायां बायाँ बाएं बाएँ बाईं बायीं बाया", "दायां दायाँ दाएं दाएँ दाईं दायीं दाया"),  # Hindi
    ("বাম বাঁ", "ডান"),  # Bengali
    ("ซ้าย", "ขวา"),  # Thai
    ("trai", "phai"),  # Vietnamese
    ("kiri", "kanan"),  # Indonesian, Malay
    ("kaliwa", "kanan"),  # Tagalog
    ("kushoto", "kulia"),  # Swahili
    ("左 左侧 左側 ひだり ヒダリ", "右 右侧 右側 みぎ ミギ"),  # Chinese, Japanese
    ("왼쪽 왼 좌 좌측", "오른쪽 오른 우 우측"),  # Korean
)
_LETTERS = (("l", "r"), ("i", "d"), ("g", "d"), ("e", "d"), ("s", "d"), ("v", "h"), ("л", "п"), ("l", "p"))

# A name with one of these words and no mirror image among the names is an error.
_CERTAIN = frozenset("left right gauche droite izquierda izquierdo derecha derecho links rechts 左 右".split())

# Names that differ in these words, or share one of them, are not left and right of each other.
_APART = frozenset(
    "top bottom upper lower up down front back base tip mid middle center centre inner outer head neck nose chin spine "
    "thorax chest pelvis belly navel abdomen forehead throat sternum torso trunk root tail mouth jaw body lip thumb "
    "index ring pinky little finger forefinger 上 下 前 后 後 中 内 外".split()
)
_CHAIN = range(3, 6)  # number of names that differ only in a number and form a chain, such as a finger or a spine


class _Name(NamedTuple):
    """A keypoint's name in parts.

    Args:
        name: The name in the file.
        words: The words of the name in lower case, without a number that counts the names.
    """

    name: str
    words: tuple[str, ...]

    @property
    def text(self) -> str:
        return " ".join(self.words)


class Sides(NamedTuple):
    """Left and right among names.

    Args:
        pairs: (left, right) names.
        unpaired: Names with the word for a side, without a name of the other side.
        unclear: Names that may be pairs, which no rule decides.
    """

    pairs: Pairs
    unpaired: tuple[str, ...]
    unclear: tuple[str, ...]


def sides_of(names: Sequence[str]) -> Sides:
    """Returns the pairs of names that differ only in the word for left or right, and the names without a clear side.

    >>> sides_of(["nose", "left_eye", "right_eye", "Right Hip", "Left Hip", "LToe", "RToe", "upright"]).pairs
    (('left_eye', 'right_eye'), ('Left Hip', 'Right Hip'), ('LToe', 'RToe'))
    >>> sides_of(["鼻子", "左眼", "右眼"]).pairs
    (('左眼', '右眼'),)
    >>> sides_of(["1", "2", "3"]).unclear
    ('1', '2', '3')
    """
    parts = _parts(names)
    found = _by_words(parts)
    letters, doubtful = _by_letters([one for one in parts if one.name not in found])
    found |= letters
    rest = [one for one in parts if one.name not in found]
    unpaired = [one.name for one in rest if _CERTAIN & set(one.words) or re.match("(left|right)[a-z]", one.text)]
    unclear = doubtful | _with_a_side(rest, bool(letters)) | _alike(rest, bool(found))
    return Sides(
        tuple((name, found[name][0]) for name in names if name in found and found[name][1]),
        tuple(unpaired),
        tuple(name for name in names if name in unclear),
    )


def _parts(names: Sequence[str]) -> list[_Name]:
    words = [_words(name) for name in names]
    for end in (0, -1):  # numbers that count the names, as in 01_nose, 02_left_eye
        counts = {one[end] for one in words if one and one[end].isdecimal()}
        if len(counts) == len(names) and all(len(one) > 1 for one in words):
            words = [one[1:] if end == 0 else one[:-1] for one in words]
    return [_Name(name, one) for name, one in zip(names, words, strict=True)]


def _words(name: str) -> tuple[str, ...]:
    """Returns the words of left_eye, leftEye, "Left Eye", LEye and EyeL in lower case, without accents."""
    plain = ""
    for letter in unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", name)):
        accent = unicodedata.combining(letter) and plain and ord(plain[-1]) < 0x530  # of Latin, Greek and Cyrillic
        if not accent:
            plain += letter
    plain = unicodedata.normalize("NFC", plain)
    spaced = ""
    for before, letter, after in zip(f" {plain}", plain, f"{plain[1:]} ", strict=False):
        is_start = letter.isupper() and (before.islower() or (before.isupper() and after.islower()))
        spaced += (" " if is_start else "") + (letter if unicodedata.category(letter)[0] in "LMN" else " ")
    return tuple(re.findall(r"\d+|[^\d\s]+", spaced.casefold()))


def _table() -> dict[str, tuple[tuple[str, ...], bool]]:
    """Returns for each word of a side the words of the other side, and whether the word means left."""
    table: dict[str, tuple[tuple[str, ...], bool]] = {}
    for left, right in _LANGUAGES:
        sides = [[" ".join(_words(word)) for word in words.split()] for words in (left, right)]
        for own, other, is_left in ((*sides, True), (*sides[::-1], False)):
            for word in own:
                known = table.get(word, ((), is_left))[0]
                table[word] = (tuple(dict.fromkeys((*known, *other))), is_left)
    return table


_WORDS = _table()


def _by_words(parts: list[_Name]) -> dict[str, tuple[str, bool]]:
    """Returns (mirror image, is left) for each name with the word of a side and exactly one mirror image."""
    by_text: dict[str, list[str]] = {}
    for one in parts:
        by_text.setdefault(one.text, []).append(one.name)
    found = {}
    for one in parts:
        for text, is_left in _mirrored(one.text):
            others = by_text.get(text, [])
            if len(others) > 1 or (others and len(by_text[one.text]) > 1):  # names that differ only in signs or case
                others = [name for name in others if name in _as_written(one.name)]
            if len(others) == 1 and others[0] != one.name:
                found.setdefault(one.name, (others[0], is_left))
    return {name: (other, left) for name, (other, left) in found.items() if found.get(other, ("",))[0] == name}


def _mirrored(text: str) -> Iterator[tuple[str, bool]]:
    """Yields possible names of the mirror image, most likely first, and whether the name itself is left."""
    words = text.split()
    sides = [place for place, word in enumerate(words) if word in _WORDS]
    for chosen in dict.fromkeys([tuple(sides), *((place,) for place in sides)]):
        if not chosen:
            continue
        for other in _WORDS[words[chosen[0]]][0]:
            turned = list(words)
            for place in chosen:
                options = _WORDS[words[place]][0]
                turned[place] = other if other in options else options[0]
            yield " ".join(turned), _WORDS[words[chosen[0]]][1]
    for word, (others, is_left) in _WORDS.items():  # within a word: lefteye, eyeright, 左眼, 왼쪽눈
        if len(word) < 4 and word.isascii():
            continue
        for at in re.finditer(re.escape(word), text):
            ideographs = not word[0].isascii() and unicodedata.category(word[0]) == "Lo"
            edge = at.start() == 0 or at.end() == len(text) or " " in (text[at.start() - 1], text[at.end()])
            if ideographs or edge:
                for other in others:
                    yield text[: at.start()] + other + text[at.end() :], is_left


def _as_written(name: str) -> set[str]:
    """Returns the name with the English word of the other side, in the same case."""
    turned = set()
    for word, other in (("left", "right"), ("right", "left"), ("l", "r"), ("r", "l")):
        for spelt in (str.lower, str.upper, str.title):
            turned.add(name.replace(spelt(word), spelt(other)))
    return turned


def _by_letters(parts: list[_Name]) -> tuple[dict[str, tuple[str, bool]], set[str]]:
    """Returns (mirror image, is left) of names that differ in one letter for a side, and the unclear names.

    A single pair is sufficient for l and r as words: l_hip and r_hip. Other letters, as in ojo_i and ojo_d, and letters
    within a word, as in lhip and rhip, require two pairs.
    """
    texts = {one.text: one.name for one in parts if [other.text for other in parts].count(one.text) == 1}
    found, doubtful = {}, set()
    for left, right in _LETTERS:
        for glued in (False, True):
            pairs = [(a, b) for a in texts for b in _turned_letter(a, left, right, glued) if b in texts]
            pairs = [(texts[a], texts[b]) for a, b in pairs if texts[a] not in found and texts[b] not in found]
            if len(pairs) >= 2 or (pairs and (left, right, glued) == ("l", "r", False)):
                for one, other in pairs:
                    found |= {one: (other, True), other: (one, False)}
            elif (left, right) == ("l", "r"):
                doubtful |= {name for pair in pairs for name in pair}
    return found, doubtful - found.keys()


def _turned_letter(text: str, left: str, right: str, glued: bool) -> Iterator[str]:
    words = text.split()
    for place, word in enumerate(words):
        turned = []
        if word == left and not glued:
            turned = [right]
        if glued and len(word) > 2:
            turned = [right + word[1:]] * word.startswith(left) + [word[:-1] + right] * word.endswith(left)
        for other in turned:
            yield " ".join([*words[:place], other, *words[place + 1 :]])


def _with_a_side(parts: list[_Name], letters: bool) -> set[str]:
    """Returns the names without a mirror image that have the word for a side, or l or r if other names have these."""
    unclear = set()
    for one in parts:
        sure = [word for word in one.words if word in _WORDS and (len(word) > 2 or not word.isascii())]
        letter = letters and {"l", "r"} & set(one.words) and not any(word.isdecimal() for word in one.words)
        glyph = any(letter in "左右" for letter in one.text)
        if sure or letter or glyph:
            unclear.add(one.name)
    return unclear


def _alike(parts: list[_Name], some_found: bool) -> set[str]:
    """Returns the names without a side that may be left and right of each other, such as eye1 and eye2."""
    bare = {one.name for one in parts if sum(map(_weight, one.text)) < (1 if any(map(str.isdecimal, one.words)) else 2)}
    unclear = bare if len(bare) > 1 else set()
    parts = [one for one in parts if one.name not in unclear]
    numbered: dict[tuple[str, ...], list[str]] = {}
    changes: dict[tuple[str, str], set[str]] = {}
    for one in parts:
        numbered.setdefault(tuple(word for word in one.words if not word.isdecimal()), []).append(one.name)
    for words, names in numbered.items():
        chain = len(names) in _CHAIN and (some_found or len(names) < len(parts))
        if len(names) > 1 and not chain and not set(words) & _APART:
            unclear |= set(names)
    for one, other in combinations(parts, 2):
        change = _change(one, other)
        if change is not None:
            changes.setdefault(tuple(sorted(change)), set()).update((one.name, other.name))
            if _one_word(one, other):
                unclear |= {one.name, other.name}
    return unclear | {name for names in changes.values() if len(names) >= 4 for name in names}


def _weight(letter: str) -> int:
    """Returns 2 for characters such as Chinese ones, which are words, 1 for other letters, 0 for all else."""
    return 2 if unicodedata.category(letter) == "Lo" else int(letter.isalpha())


def _one_word(one: _Name, other: _Name) -> bool:
    """Returns whether two names of the same number of words, at least two, differ in one word."""
    same = [a == b for a, b in zip(one.words, other.words, strict=False)]
    return len(one.words) == len(other.words) > 1 and sum(same) == len(same) - 1


def _change(one: _Name, other: _Name) -> tuple[str, str] | None:
    """Returns the parts in which two names differ; None if they share little or differ in a word of `_APART`."""
    text, own = one.text, other.text
    start = len(commonprefix([text, own]))
    left, right = text[start:], own[start:]
    end = len(commonprefix([left[::-1], right[::-1]]))
    shared = text[:start] + left[len(left) - end :]
    left, right = (part[: len(part) - end] for part in (left, right))
    words = set(one.words) | set(other.words) | {left, right}
    if not left or not right or left.isdecimal() or right.isdecimal() or words & _APART:
        return None
    return (left, right) if sum(map(_weight, shared)) >= max(2, max(len(left), len(right)) // 2) else None
