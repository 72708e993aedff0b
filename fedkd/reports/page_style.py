"""The look of every HTML report: light and dark, phone and paper, with system fonts only."""

from __future__ import annotations

INK = "#1c2024"
"""Color of text and axes in pictures; :mod:`fedkd.reports.pictures` lets it follow the theme."""
LINE = "#dde1e6"
"""Color of grids in pictures; it follows the theme too."""
BLUE = "#0072b2"
"""The palette's first color, too dark on a dark page; it follows the theme too."""

CSS = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --card: #f6f7f9; --ink: #1c2024; --soft: #555d66; --line: #dde1e6;
  --link: #0a5c96; --blue: #0072b2;
  --good: #1b7a43; --good-bg: #e9f5ee; --bad: #b3261e; --bad-bg: #fcebea;
  --mild: #8a5a00; --mild-bg: #fff5e0; --plain: #555d66; --plain-bg: #f0f2f5;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14171a; --card: #1d2126; --ink: #e6e9ec; --soft: #a6afb8; --line: #363d45;
    --link: #7cc0ee; --blue: #4aa3dd;
    --good: #6fd29a; --good-bg: #15291d; --bad: #ff9b92; --bad-bg: #331a18;
    --mild: #f0c069; --mild-bg: #2e2412; --plain: #a6afb8; --plain-bg: #22272d;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans",
    sans-serif;
}
main, header, footer { max-width: 76rem; margin: 0 auto; padding: 0 1.5rem; }
header { padding-top: 2rem; }
footer { padding: 1.5rem 1.5rem 3rem; color: var(--soft); font-size: .875rem;
  overflow-wrap: anywhere; }
h1 { font-size: 1.75rem; line-height: 1.25; margin: 0 0 .5rem; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; line-height: 1.3; margin: 2.75rem 0 .75rem; padding-top: .75rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.5rem 0 .5rem; }
p, ul, ol { max-width: 46rem; margin: .5rem 0; }
ul, ol { padding-left: 1.4rem; }
li { margin: .25rem 0; }
p, li, dd, figcaption { overflow-wrap: anywhere; }
a { color: var(--link); }
a:focus-visible, .wide:focus-visible, summary:focus-visible {
  outline: 3px solid var(--link); outline-offset: 2px; }
.soft { color: var(--soft); }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: .25rem 1.1rem; max-width: none;
  padding: 0; margin: 1rem 0 0; font-size: .9rem; }
nav li { margin: 0; }
nav a { display: inline-block; padding: .2rem 0; }
dl.facts { display: grid; grid-template-columns: minmax(9rem, 14rem) 1fr; gap: .3rem 1.25rem;
  margin: .75rem 0; }
dl.facts dt { color: var(--soft); }
dl.facts dd { margin: 0; }
code { font: .9em/1.5 ui-monospace, "SF Mono", Consolas, "DejaVu Sans Mono", monospace;
  overflow-wrap: anywhere; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(11.5rem, 1fr)); gap: .75rem;
  margin: 1rem 0; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: .5rem;
  padding: .8rem 1rem; }
.tile .name { color: var(--soft); font-size: .875rem; line-height: 1.35; }
.tile .value { font-size: 1.55rem; line-height: 1.3; font-variant-numeric: tabular-nums; }
.tile .more { color: var(--soft); font-size: .875rem; line-height: 1.4; }
.box { border: 1px solid var(--line); border-left: .4rem solid var(--tone); border-radius: .5rem;
  background: var(--tone-bg); padding: 1rem 1.25rem; margin: 1rem 0; }
.box > .head { font-weight: 650; font-size: 1.1rem; color: var(--tone); margin: 0 0 .35rem; }
.box .tile { background: var(--paper); }
.good { --tone: var(--good); --tone-bg: var(--good-bg); }
.bad { --tone: var(--bad); --tone-bg: var(--bad-bg); }
.mild { --tone: var(--mild); --tone-bg: var(--mild-bg); }
.plain { --tone: var(--plain); --tone-bg: var(--plain-bg); }
.wide { overflow-x: auto; margin: .75rem 0; }
table { border-collapse: collapse; font-size: .9rem; line-height: 1.4; }
caption { text-align: left; color: var(--soft); padding: 0 0 .4rem; max-width: 46rem; }
th, td { text-align: left; vertical-align: top; padding: .45rem .6rem;
  border-bottom: 1px solid var(--line); font-weight: 400; }
thead th { border-bottom: 2px solid var(--line); color: var(--soft); font-weight: 600;
  vertical-align: bottom; min-width: 4rem; }
tbody th { font-weight: 600; overflow-wrap: break-word; }
td { overflow-wrap: break-word; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
.below { display: block; color: var(--soft); font-size: .85em; font-weight: 400; }
.number .below { white-space: nowrap; }
figure { margin: 1rem 0 1.5rem; }
figure svg { display: block; width: 100%; height: auto; color: var(--ink); }
figcaption { color: var(--soft); font-size: .9rem; max-width: 46rem; margin-top: .4rem; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr));
  gap: .5rem 2rem; align-items: start; }
.pictures figure { margin: .5rem 0; min-width: 0; }
details { margin: .5rem 0; }
summary { cursor: pointer; padding: .3rem 0; color: var(--link); }
@media (max-width: 40rem) {
  main, header, footer { padding-left: 1rem; padding-right: 1rem; }
  header { padding-top: 1.25rem; }
  h1 { font-size: 1.4rem; }
  nav a { padding: .5rem 0; }
  dl.facts { grid-template-columns: 1fr; gap: 0; }
  dl.facts dd { margin-bottom: .6rem; }
  .tiles { grid-template-columns: 1fr; }
  figure .scroll { overflow-x: auto; }
  figure svg.broad { min-width: 34rem; }
  table.stack, .stack caption, .stack tbody, .stack tr, .stack td, .stack tbody th {
    display: block; }
  .stack thead { position: absolute; width: 1px; height: 1px; overflow: hidden;
    clip-path: inset(50%); }
  .stack tr { border: 1px solid var(--line); border-radius: .5rem; background: var(--card);
    margin: 0 0 .75rem; padding: .4rem .8rem; }
  .stack td, .stack tbody th { border: 0; padding: .3rem 0; overflow-wrap: anywhere; }
  .stack tbody th { font-size: 1rem; }
  .stack tbody th::before { content: attr(data-label) " "; color: var(--soft); font-weight: 400; }
  .stack td { display: grid; grid-template-columns: 42% 1fr; column-gap: .75rem;
    text-align: left; }
  .stack td::before { content: attr(data-label); color: var(--soft); }
  td .below { white-space: normal; }
}
@media print {
  :root {
    color-scheme: light;
    --paper: #ffffff; --card: #ffffff; --ink: #000000; --soft: #444444; --line: #bbbbbb;
    --link: #000000; --blue: #0072b2;
    --good: #1b7a43; --good-bg: #ffffff; --bad: #b3261e; --bad-bg: #ffffff;
    --mild: #8a5a00; --mild-bg: #ffffff; --plain: #444444; --plain-bg: #ffffff;
  }
  body { font-size: 10pt; }
  main, header, footer { max-width: none; padding-left: 0; padding-right: 0; }
  nav { display: none; }
  h2, h3 { break-after: avoid; }
  figure, .box, .tile, tr { break-inside: avoid; }
  .wide { overflow: visible; }
  table { font-size: 8pt; }
  a { text-decoration: none; }
}
"""
