"""The page's look: one stylesheet, two sets of colours, chosen by the reader's own setting."""

CSS = """
:root {
  color-scheme: light dark;
  --page: #fbfbfa; --card: #ffffff; --ink: #1d2129; --soft: #5d6470; --grid: #d4d7dc;
  --line: #e6e7ea; --accent: #2f6fde; --warn: #9a5b00; --warn-page: #fff5e2; --hot: #ffffff;
  --series-1: #2f6fde; --series-2: #e07b1f; --series-3: #2a9d6f; --series-4: #b8478f;
  --series-5: #7a63d2; --series-6: #8a7a5c;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14161a; --card: #1c1f25; --ink: #e8eaee; --soft: #a2a9b5; --grid: #444a55;
    --line: #2d323b; --accent: #78a8ff; --warn: #f2b95f; --warn-page: #33291a; --hot: #101318;
    --series-1: #78a8ff; --series-2: #ffab5e; --series-3: #5fd3a4; --series-4: #ee8ec8;
    --series-5: #b3a2ff; --series-6: #cdbb95;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
}
main, header, footer { max-width: 1120px; margin: 0 auto; padding: 0 16px; }
header { padding-top: 28px; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 0 0 2px; }
h3 { font-size: 0.95rem; margin: 20px 0 4px; overflow-wrap: anywhere; }
p { margin: 4px 0 10px; overflow-wrap: anywhere; max-width: 78ch; }
a { color: var(--accent); }
.about, .how, figcaption, .soft, footer { color: var(--soft); }
p.soft, .how { font-size: 0.92rem; }
.how { margin-bottom: 14px; }
.beside { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(440px, 100%), 1fr));
  gap: 0 18px; align-items: stretch; }
nav { display: flex; flex-wrap: wrap; gap: 4px 14px; margin: 12px 0 20px; font-size: 0.9rem; }
nav a { text-decoration: none; }
nav a:hover { text-decoration: underline; }
section {
  background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  padding: 20px; margin: 0 0 18px; min-width: 0;
}
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(140px, 1fr)); gap: 16px; }
.tile .value { font-size: 1.75rem; font-weight: 650; line-height: 1.15; }
.tile .name { font-size: 0.86rem; color: var(--soft); }
.tile .range { font-size: 0.86rem; }
.value, .range, td, th { font-variant-numeric: tabular-nums; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(300px, 100%), 1fr));
  gap: 20px; align-items: start; }
figure { margin: 0; min-width: 0; }
figcaption { font-size: 0.86rem; margin-bottom: 4px; }
svg { display: block; width: 100%; max-width: 520px; height: auto; stroke-linejoin: round;
  font-family: inherit; }
svg text { fill: var(--ink); }
.scroll { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-size: 0.9rem; }
td, th { padding: 4px 10px; border-bottom: 1px solid var(--line); text-align: right;
  font-weight: 400; white-space: nowrap; }
thead th { color: var(--soft); vertical-align: bottom; }
thead th { white-space: normal; }
td.text, th.text { text-align: left; white-space: normal; overflow-wrap: anywhere;
  min-width: 7.5em; }
tr:last-child > * { border-bottom: 0; }
tr.marked > * { font-weight: 650; }
.matrix table { font-size: 0.82rem; }
.matrix td { text-align: center; padding: 5px 3px; min-width: 2.1em; border: 1px solid var(--card);
  border-radius: 4px;
  background: color-mix(in srgb, var(--cell, var(--series-2)) calc(var(--v) * 1%), transparent); }
.matrix td.right { --cell: var(--series-1); }
.matrix td.zero { color: var(--soft); opacity: 0.45; }
.matrix td.hot { color: var(--hot); }
.matrix th { border: 0; padding: 4px 6px; max-width: 9em; overflow: hidden;
  text-overflow: ellipsis; }
.matrix thead th { padding: 4px 2px; text-align: center; max-width: 5em; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(132px, 1fr));
  gap: 14px 12px; }
.pictures.wide { grid-template-columns: repeat(auto-fill, minmax(200px, 1fr)); }
.pictures figure { font-size: 0.82rem; line-height: 1.35; overflow-wrap: anywhere; }
.pictures .pair { display: flex; gap: 4px; }
.pictures img { width: 100%; max-width: 132px; min-width: 0; flex: 1 1 0; border-radius: 5px;
  background: var(--line); }
.pictures .pair img { width: 50%; }
img.pixels { image-rendering: pixelated; }
figure .file { overflow-wrap: anywhere; color: var(--soft); font-size: 0.74rem; display: block; }
.warn { background: var(--warn-page); color: var(--warn); border-radius: 8px; padding: 8px 12px;
  max-width: none; }
pre { background: var(--page); border: 1px solid var(--line); border-radius: 8px; padding: 12px;
  margin: 8px 0; white-space: pre-wrap; overflow-wrap: anywhere; font-size: 0.85rem; }
code { font-size: 0.92em; overflow-wrap: anywhere; }
footer { font-size: 0.86rem; padding-bottom: 32px; }
@media (max-width: 480px) {
  main, header, footer { padding: 0 10px; }
  header { padding-top: 18px; }
  section { padding: 14px 12px; border-radius: 10px; }
  td, th { padding: 4px 6px; }
  .pictures { grid-template-columns: repeat(auto-fill, minmax(118px, 1fr)); }
  .pictures.wide { grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); }
}
@media print { section { break-inside: avoid; } nav { display: none; } }
"""
