// What the page draws: archs, tables and the curve.

const KINDS = {
  superclass: "Single superclasses",
  union: "Unions of two or three superclasses",
  large_union: "Unions of five or ten superclasses",
  all: "All superclasses together",
};

// ------------------------------------------------------------------ archs

function drawArchs() {
  const beside = choice.beside.length > 0, one = first(), other = beside ? second() : one;
  const changed = differing(one, other);
  const figures = [figureOf(choice.set, choice.bound, one, changed, beside ? "compared" : "")];
  if (beside) figures.push(figureOf(choice.beside, placeBeside(), other, changed, "compared other"));
  get("arch-title").textContent = beside ? "The two archs" : "The arch";
  get("archs").innerHTML = figures.join("");
  get("differs").textContent = changed.some(Boolean)
    ? " Blocks that differ have a solid outline, and \u2260 at their number." : "";
}

function figureOf(set, place, it, changed, look) {
  const stages = stagesOf(it, changed);
  const told = stages.map(stage => `${stage.name}: ` + stage.blocks.map(block =>
    (block.form || "left out") + (block.changed ? " (differs)" : "")).join(", ")).join("; ");
  return `<figure class="${look}">
    <figcaption><b>${safe(capital(namesOf(set)))}</b> at most ${boundWords(place)}</figcaption>
    <div class="stages" role="img" aria-label="Forms of the blocks. ${safe(told)}">${stages.map(stageOf).join("")}</div>
  </figure>`;
}

function stagesOf(it, changed) { // of every block its form, and how high it and the largest one are drawn
  const one = study(), tallest = Math.max(...one.stages.flatMap(stage => stage.full));
  let at = 0;
  return one.stages.map((stage, index) => ({
    name: it.pixels ? one.sized[it.pixels][index] : stage.name,
    blocks: stage.blocks.map((name, block) => {
      const {forms, sizes} = one.blocks[at], form = it.forms[at], full = stage.full[block];
      const share = form < 0 ? 0 : sizes[form] / full;
      return {name, changed: changed[at++], full: full / tallest, share, form: form < 0 ? "" : forms[form]};
    }),
  }));
}

function stageOf({name, blocks}) {
  const mark = block => block.changed ? "differs" : "";
  const bars = blocks.map(block => `<div class="block ${mark(block)}" style="height:${block.full * 88}%">
    <i style="height:${block.share * 100}%"></i>
    <b style="bottom:calc(${block.share * 100}% + 2px)">${safe(block.form)}</b></div>`);
  const names = blocks.map(block => `<span class="${mark(block)}">${safe(block.name)}</span>`);
  return `<div class="stage" style="flex:${blocks.length} 1 ${blocks.length * 1.3}rem">
    <div class="blocks">${bars.join("")}</div><div class="names">${names.join("")}</div><p>${safe(name)}</p></div>`;
}

// ------------------------------------------------------------------ tables

function drawTables() {
  const expected = expectedRows(), {rows, words} = measuredRows();
  const ends = [...expected.map(row => row.found), ...rows.map(row => row.found)];
  const values = ends.flat().filter(each => each !== null);
  const span = [Math.max(0, Math.floor(Math.min(...values) - 1)), Math.min(100, Math.ceil(Math.max(...values) + 1))];
  get("measured-words").innerHTML = words;
  fillTable("expected", expected, span, ["network", "right, %"],
    `Expected before anything is measured, with 95 % intervals; lines run from ${span[0]} to ${span[1]}\u00a0%`);
  fillTable("measured", rows, span, ["method", "right, %", "points over OFA's way"],
    "Measured on test images, with 95 % intervals over seeds");
}

function expectedRows() {
  if (!study().expected) return [];
  const kinds = ownWeights(choice.set) ? [true, false] : [false];
  const rows = kinds.map(own => ({
    name: weightsName(own),
    found: expectedOf(choice.set, first(), own),
    look: own === usesOwn(choice.set) ? "guess main" : "guess",
  }));
  if (choice.beside.length) {
    const found = expectedOf(choice.beside, second());
    rows.push({name: `beside it: ${namesOf(choice.beside)}`, found, look: "guess"});
  }
  return rows;
}

function measuredRows() { // of this scenario; or where there are some; or means of sets like this one
  const {methods, own, shared, ofa, sets, kinds} = study().measured, used = usesOwn(choice.set) ? own : shared;
  const asRow = ([method, ...numbers]) => ({
    name: methods[method].label,
    found: numbers.slice(0, 3),
    over: method === ofa ? null : numbers.slice(3),
    look: method === used ? "main" : "",
    square: method === ofa,
  });
  const here = resultsOf(choice.set, choice.bound), budgets = Object.keys(sets[choice.set.join(",")] ?? {});
  if (here.length) return {rows: here.map(asRow), words: ""};
  if (budgets.length) return {rows: [], words: budgetsOf(budgets)};
  const size = choice.set.length, whole = size === study().superclasses.length;
  const kind = whole ? "all" : size === 1 ? "superclass" : size < 4 ? "union" : "large_union";
  const means = kinds[kind] ?? [];
  const told = means.length ? ` ${KINDS[kind]}, in the mean over all that were:` : "";
  return {rows: means.map(asRow), words: `<p>This set was not measured on test images.${told}</p>`};
}

function budgetsOf(budgets) {
  const buttons = budgets.map(each => `<button type="button" data-budget="${each}">${each}</button>`);
  return `<p>On test images, this set was measured at other bounds. Show one of them, in million multiply-adds:</p>
    <p>${buttons.join(" ")}</p>`;
}

function fillTable(id, rows, span, columns, caption) {
  const head = columns.map(each => `<th scope="col">${each}</th>`).join("");
  get(id).hidden = !rows.length;
  get(id).innerHTML = `<caption>${caption}</caption><thead><tr>${head}</tr></thead>
    <tbody>${rows.map(row => rowOf(row, span)).join("")}</tbody>`;
}

function rowOf({name, found: [mean, low, high], over, look, square}, span) {
  const at = value => (value - span[0]) / (span[1] - span[0]) * 100, several = low !== null;
  const bar = several ? `<i style="left:${at(low)}%;width:${at(high) - at(low)}%"></i>` : "";
  const interval = several ? `<small>${low.toFixed(1)} to ${high.toFixed(1)}</small>` : "";
  const range = several && over ? `<small>${signed(over[1])} to ${signed(over[2])}</small>` : "";
  const points = over === undefined ? "" : `<td>${over ? signed(over[0]) + range : ""}</td>`;
  return `<tr class="${look}"><th scope="row">${safe(name)}
    <div class="scale ${square ? "square" : ""}" aria-hidden="true">${bar}<b style="left:${at(mean)}%"></b></div></th>
    <td>${mean.toFixed(1)}${interval}</td>${points}</tr>`;
}

// ------------------------------------------------------------------ the curve

function drawCurve() {
  get("curve-box").hidden = !study().expected;
  if (!study().expected) return;
  const lines = curveLines(), marks = curveMarks(), main = lines[0].values, xs = unit().values;
  const ys = [...main.flat(), ...lines.flatMap(line => line.values.map(each => each[0])), ...marks.map(mark => mark.y)];
  get("curve").innerHTML = svgOf(lines, marks, axesOf(ys));
  const ends = [0, xs.length - 1].map(place => `${main[place][0].toFixed(1)} % at ${boundWords(place)}`);
  get("curve").setAttribute("aria-label", `Expected accuracy over the bound: from ${ends[0]} to ${ends[1]}.`);
  drawLegend(lines, marks);
}

function curveLines() { // expected at every bound, with an interval
  const line = (set, own, look, words) => ({look, words, values: expectedAt(set,
    unit().values.map((_, place) => network(set, place).costs[0]), own)});
  const own = usesOwn(choice.set), told = `expected, ${weightsName(own)}; shaded: 95 % interval`;
  const lines = [line(choice.set, own, "", told)];
  if (own) lines.push(line(choice.set, false, "dashed", "expected, weights that all classes share"));
  if (choice.beside.length) {
    lines.push(line(choice.beside, usesOwn(choice.beside), "second", `beside it: ${namesOf(choice.beside)}`));
  }
  return lines;
}

function curveMarks() { // what was measured of this set, ours on top
  const {own, shared, ofa} = study().measured, used = usesOwn(choice.set) ? own : shared;
  return [ofa, used].flatMap(method => unit().values.flatMap((x, place) => resultsOf(choice.set, place)
    .filter(row => row[0] === method).map(row => ({x, y: row[1], square: method === ofa}))));
}

function axesOf(ys) { // where values are drawn, and the round numbers between the ends
  const wide = Math.max(260, get("curve").clientWidth), high = wide < 500 ? 240 : 300;
  const box = {left: 34, right: wide - 12, top: 10, bottom: high - 36}, xs = unit().values;
  const [least, most] = [Math.min(...ys), Math.max(...ys)], step = most - least > 16 ? 5 : 2;
  const low = Math.max(0, Math.floor(least / step) * step), top = Math.min(100, Math.ceil(most / step) * step);
  const x = value => box.left + (value - xs[0]) / (xs.at(-1) - xs[0] || 1) * (box.right - box.left);
  const y = value => box.top + (top - value) / (top - low || 1) * (box.bottom - box.top);
  const rules = Array.from({length: Math.floor((top - low) / step) + 1}, (_, index) => low + index * step);
  return {wide, high, box, x, y, rules};
}

function svgOf(lines, marks, {wide, high, box, x, y, rules}) {
  const xs = unit().values, now = x(xs[choice.bound]);
  const path = points => "M" + points.map(([across, up]) => `${x(across).toFixed(1)} ${y(up).toFixed(1)}`).join("L");
  const along = (values, end) => path(values.map((each, place) => [xs[place], each[end]]));
  const main = lines[0].values, back = main.map((each, place) => [xs[place], each[1]]).reverse();
  const band = along(main, 2) + path(back).replace("M", "L") + "Z";
  const grid = rules.map(each => `
    <line class="grid" x1="${box.left}" x2="${box.right}" y1="${y(each)}" y2="${y(each)}"/>
    <text x="${box.left - 6}" y="${y(each) + 4}" text-anchor="end">${each}</text>`);
  const ticks = [0, 1, 2, 3, 4].map(part => xs[Math.round(part / 4 * (xs.length - 1))]).map(each =>
    `<text x="${x(each)}" y="${box.bottom + 18}" text-anchor="middle">${each}</text>`);
  return `<svg viewBox="0 0 ${wide} ${high}" aria-hidden="true">${grid.join("")}${ticks.join("")}
    <text x="${(box.left + box.right) / 2}" y="${high - 2}" text-anchor="middle">at most, ${safe(unit().unit)}</text>
    <path class="band" d="${band}"/><line class="now" x1="${now}" x2="${now}" y1="${box.top}" y2="${box.bottom}"/>
    ${lines.map(({look, values}) => `<path class="line ${look}" d="${along(values, 0)}"/>`).join("")}
    ${marks.map(mark => markAt(x(mark.x), y(mark.y), mark.square)).join("")}</svg>`;
}

function markAt(x, y, square) {
  return square ? `<rect class="mark" x="${x - 4.5}" y="${y - 4.5}" width="9" height="9"/>`
    : `<circle class="mark full" cx="${x}" cy="${y}" r="4.5"/>`;
}

function drawLegend(lines, marks) {
  const rows = lines.map(({look, words}) => [`<path class="line ${look}" d="M2 8H34"/>`, words]);
  const own = weightsName(usesOwn(choice.set));
  if (marks.length) rows.push([markAt(18, 8, false), `measured, ${own}`], [markAt(18, 8, true), "measured, OFA's way"]);
  get("legend").innerHTML = rows.map(([look, words]) =>
    `<li><svg width="36" height="16" aria-hidden="true">${look}</svg>${safe(words)}</li>`).join("");
}
