"""The look of report.html."""

from __future__ import annotations

CSS = """
:root { color-scheme: light dark;
  --page: #ffffff; --panel: #f5f6f8; --edge: #dfe2e7; --text: #1b1f24; --soft: #5d6673; --accent: #2857c5;
  --c0: #2563c9; --c1: #d1571b; --c2: #1f8a5b; --c3: #8a46bd; --c4: #b8860b; --c5: #c2255c; --warn: #b42318; }
@media (prefers-color-scheme: dark) { :root {
  --page: #14171b; --panel: #1d2127; --edge: #343a43; --text: #e7eaee; --soft: #a0a9b5; --accent: #8fb0ff;
  --c0: #78a6ff; --c1: #ff9c66; --c2: #5fd19a; --c3: #c99bf2; --c4: #e3bc4b; --c5: #ff8fb1; --warn: #ff9a8f; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); line-height: 1.5;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
main { max-width: 1140px; margin: 0 auto; padding: 40px 24px 64px; }
.kicker { color: var(--soft); font-size: 14px; margin: 0; }
h1 { font-size: 34px; line-height: 1.2; margin: 4px 0 6px; letter-spacing: -0.01em; }
h2 { font-size: 21px; margin: 52px 0 6px; letter-spacing: -0.005em; }
h3 { font-size: 16px; margin: 0 0 2px; }
p { margin: 6px 0; max-width: 76ch; }
.soft, figcaption, .note { color: var(--soft); font-size: 14px; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 1px; margin: 24px 0 0;
  background: var(--edge); border: 1px solid var(--edge); border-radius: 10px; overflow: hidden; }
.figures div { background: var(--panel); padding: 12px 16px; }
.figures dt { color: var(--soft); font-size: 13px; }
.figures dd { margin: 0; font-size: 20px; font-weight: 600; font-variant-numeric: tabular-nums; }
.figures small { font-size: 13px; font-weight: 400; color: var(--soft); }
figure { margin: 0; }
figcaption { margin-top: 8px; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 28px;
  margin-top: 16px; }
.pair img { width: 100%; height: auto; display: block; border-radius: 6px; }
img { image-rendering: pixelated; background: #fff; outline: 1px solid var(--edge); }
img.smooth { image-rendering: auto; }
.strip { display: grid; grid-template-columns: repeat(auto-fill, minmax(160px, 1fr)); gap: 18px; margin-top: 14px; }
.strip img { width: 100%; height: auto; display: block; border-radius: 4px; }
.strip figcaption { margin-top: 4px; text-align: center; font-variant-numeric: tabular-nums; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr)); gap: 24px;
  margin-top: 16px; align-items: start; }
.panel { background: var(--panel); border: 1px solid var(--edge); border-radius: 10px;
  padding: 16px 18px; min-width: 0; }
.panel p { font-size: 14px; color: var(--soft); margin: 8px 0 0; }
.findings { columns: 2 380px; column-gap: 18px; margin-top: 14px; }
.finding { break-inside: avoid; background: var(--panel); border: 1px solid var(--edge);
  border-left: 4px solid var(--c); border-radius: 0 10px 10px 0; padding: 12px 16px; margin: 0 0 16px; }
.finding h3 { font-weight: 500; color: var(--soft); } .finding h3 strong { color: var(--c); font-weight: 650; }
.finding p { font-size: 15px; margin: 4px 0; } .finding ul { margin: 4px 0; padding-left: 18px; font-size: 13.5px;
  color: var(--soft); overflow-wrap: anywhere; }
.good { --c: var(--c2); } .watch { --c: var(--c4); } .bad { --c: var(--warn); } .unknown { --c: var(--soft); }
.legend { display: flex; flex-wrap: wrap; gap: 4px 16px; font-size: 14px; margin: 0 0 6px; padding: 0;
  list-style: none; }
.legend li::before { content: ""; display: inline-block; width: 16px; height: 3px; border-radius: 2px;
  margin-right: 7px; vertical-align: middle; background: var(--c); }
svg { width: 100%; height: auto; display: block; font-size: 12px; }
svg text { fill: var(--soft); stroke: none; }
svg .grid { stroke: var(--edge); stroke-width: 1; fill: none; }
svg .axis { stroke: var(--soft); stroke-width: 1; fill: none; }
svg .line { fill: none; stroke: var(--c); stroke-width: 1.7; stroke-linejoin: round; }
svg path.mark { fill: none; stroke: var(--c, var(--soft)); stroke-width: 1.2; stroke-dasharray: 5 4; opacity: .8; }
svg text.mark { fill: var(--c, var(--soft)); stroke: var(--panel); stroke-width: 4px; paint-order: stroke; }
.l0 { --c: var(--c0); } .l1 { --c: var(--c1); } .l2 { --c: var(--c2); }
.l3 { --c: var(--c3); } .l4 { --c: var(--c4); } .l5 { --c: var(--c5); }
pre { background: var(--panel); border: 1px solid var(--edge); border-radius: 8px; padding: 12px 16px;
  margin: 8px 0 14px; overflow-x: auto;
  font: 14px/1.55 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
code { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: 0.92em; }
.columns { columns: 320px; column-gap: 28px; margin-top: 16px; }
.columns section { break-inside: avoid; margin: 0 0 24px; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
td { padding: 4px 8px 4px 0; border-bottom: 1px solid var(--edge); vertical-align: top; overflow-wrap: anywhere; }
td:first-child { color: var(--soft); width: 1%; white-space: nowrap; padding-right: 18px; }
td small { color: var(--soft); font-size: 12px; }
tr.changed td { color: var(--text); font-weight: 600; }
tr.changed td:first-child::before { content: "● "; color: var(--accent); }
tr.unread td { opacity: .55; }
.alert { border-left: 4px solid var(--warn); background: var(--panel); border-radius: 0 8px 8px 0; padding: 10px 16px;
  margin: 20px 0 0; max-width: none; }
footer { margin-top: 56px; color: var(--soft); font-size: 13px; border-top: 1px solid var(--edge); padding-top: 14px; }
@media (max-width: 560px) { main { padding: 24px 16px 48px; } h1 { font-size: 27px; } h2 { margin-top: 40px; }
  .figures { grid-template-columns: 1fr 1fr; } .figures dd { font-size: 17px; } .panel { padding: 12px; }
  svg { font-size: 14px; } .strip { grid-template-columns: repeat(3, 1fr); gap: 12px 10px; } }
@media print { h2 { break-after: avoid; } .panel { break-inside: avoid; } }
"""
