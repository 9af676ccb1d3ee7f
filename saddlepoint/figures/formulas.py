"""Formulas for the gallery: a small part of TeX as MathML, which browsers draw by themselves.

Understood: letters, numbers, signs; ^ and _; groups in braces; \\frac, \\sqrt, \\bar, \\text, \\mathbb, \\left and
\\right as plain brackets; Greek letters and the signs in SIGNS. Anything else is a ValueError, so that a picture cannot
show a broken formula.
"""

from __future__ import annotations

import re
from html import escape

LETTERS = dict(
    zip(
        ("alpha", "beta", "gamma", "delta", "epsilon", "eta", "theta", "lambda", "mu", "nu", "pi", "rho", "sigma",
         "tau", "phi", "psi", "omega", "Delta", "Phi", "Sigma", "Pi"),
        "αβγδεηθλμνπρστφψωΔΦΣΠ",
        strict=True,
    )
)  # fmt: skip
SIGNS = {
    "le": "≤", "ge": "≥", "pm": "±", "mp": "∓", "cdot": "·", "times": "×", "in": "∈", "to": "→", "infty": "∞",
    "nabla": "∇", "int": "∫", "sum": "∑", "partial": "∂", "approx": "≈", "ne": "≠", "sim": "∼", "mid": "|",
    "top": "⊤", "Vert": "‖", "mapsto": "↦", "iff": "⇔", "ast": "*", "prime": "′", ",": "\u2009", "quad": "\u2003",
}  # fmt: skip
WORDS = ("log", "exp", "min", "max", "inf", "sup", "Re", "Im", "sign")
TOKEN = re.compile(r"\s*(\\(?:text|mathbb)\{[^{}]*\}|\\[A-Za-z]+|\\,|[0-9]+(?:\.[0-9]+)?|.)", re.DOTALL)


def mathml(tex: str, *, display: bool = False) -> str:
    """TeX (the part named above) as one <math> element. Raises ValueError for what is not understood."""
    parser = _Parser(TOKEN.findall(tex.strip()), tex)
    body = parser.row("")
    block = ' display="block"' if display else ""
    return f"<math{block}><mrow>{body}</mrow></math>"


def prose(text: str) -> str:
    """HTML of words in which $...$ is a formula."""
    parts = text.split("$")
    if len(parts) % 2 == 0:
        raise ValueError(f"a $ is missing in {text!r}")
    return "".join(mathml(part) if i % 2 else escape(part, quote=False) for i, part in enumerate(parts))


class _Parser:
    def __init__(self, tokens: list[str], source: str) -> None:
        self.tokens, self.at, self.source = tokens, 0, source

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self, expected: str = "") -> str:
        token = self.peek()
        if not token or (expected and token != expected):
            raise ValueError(f"expected {expected or 'something'} in the formula {self.source!r}, found {token!r}")
        self.at += 1
        return token

    def row(self, end: str) -> str:
        """Everything up to the token `end`."""
        parts = []
        while self.peek() != end:
            parts.append(self.scripted())
        return "".join(parts)

    def group(self) -> str:
        """{...}, or a single atom."""
        if self.peek() != "{":
            return self.atom()
        self.take("{")
        inside = self.row("}")
        self.take("}")
        return f"<mrow>{inside}</mrow>"

    def scripted(self) -> str:
        base, low, high = self.group(), "", ""
        while self.peek() in ("^", "_"):
            if self.take() == "^":
                high = self.group()
            else:
                low = self.group()
        word = base.removeprefix("<mi>").removesuffix("</mi>")
        if word in WORDS:  # browsers leave no room after a function's name
            under = f"<munder>{base}{low}</munder>" if low and word in ("min", "max", "inf", "sup") else ""
            base, low = under or base, "" if under else low
        space = '<mspace width="0.17em"/>' if word in WORDS else ""
        return self.attached(base, low, high) + space

    def attached(self, base: str, low: str, high: str) -> str:
        """A base with its subscript and superscript, either of which may be empty."""
        if low and high:
            return f"<msubsup>{base}{low}{high}</msubsup>"
        if low or high:
            return f"<msub>{base}{low}</msub>" if low else f"<msup>{base}{high}</msup>"
        return base

    def atom(self) -> str:
        token = self.take()
        if token.startswith("\\"):
            return self.command(token[1:])
        if token[0].isdigit():
            return f"<mn>{token}</mn>"
        if token.isalpha():
            return f"<mi>{token}</mi>"
        if token in "^_{}$&#%":
            raise ValueError(f"{token!r} stands alone in the formula {self.source!r}")
        sign = {"-": "−", "'": "′", "*": "*"}.get(token, token)
        stretchy = ' stretchy="false"' if token in "()[]|" else ""
        return f"<mo{stretchy}>{escape(sign)}</mo>"

    def command(self, name: str) -> str:
        if name == "frac":
            return f"<mfrac>{self.group()}{self.group()}</mfrac>"
        if name == "sqrt":
            return f"<msqrt>{self.group()}</msqrt>"
        if name == "bar":
            return f"<mover>{self.group()}<mo>¯</mo></mover>"
        if name.startswith("mathbb{"):
            return f"<mi>{ {'E': '𝔼', 'R': 'ℝ'}[name[7:-1]] }</mi>"
        if name.startswith("text{"):  # blanks at the ends of a <mtext> are dropped by browsers
            return f"<mtext>{escape(re.sub('^ | $', chr(0xA0), name[5:-1]))}</mtext>"
        if name in ("left", "right"):
            return f"<mo>{escape(self.take())}</mo>"
        if name in LETTERS:
            return f"<mi>{LETTERS[name]}</mi>"
        if name in WORDS:
            return f"<mi>{name}</mi>"
        if name in SIGNS:
            return f"<mo>{SIGNS[name]}</mo>"
        raise ValueError(f"\\{name} in the formula {self.source!r} is not understood")
