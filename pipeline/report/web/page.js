// What is chosen: `set` and `beside` are numbers of superclasses, `bound` and `apart` places in the list of bounds.
const choice = {study: 0, unit: 0, set: [], bound: 0, weights: "own", beside: [], apart: null};
const KINDS = {superclass: "Single superclasses", union: "Unions of two or three superclasses",
  large_union: "Unions of five or ten superclasses", all: "All superclasses together"};
const MANY = 12; // superclasses, of more there is a search
const get = id => document.getElementById(id);
const safe = text => String(text).replace(/[&<>"']/g, mark => "&#" + mark.charCodeAt(0) + ";");
const listed = names => names.length < 2 ? names.join("") : names.slice(0, -1).join(", ") + " and " + names.at(-1);
const sum = numbers => numbers.reduce((one, other) => one + other, 0);
const signed = value => value === null ? "" : (value < 0 ? "\u2212" : "+") + Math.abs(value).toFixed(1);
const plural = (count, word) => `${count} ${word}${count === 1 ? "" : word.endsWith("s") ? "es" : "s"}`;
const study = () => data.studies[choice.study];
const unit = () => study().bounds[choice.unit];

// ------------------------------------------------------------------ a network

const classesOf = set => sum(set.map(each => study().superclasses[each].classes.length));
const namesOf = set => listed(set.map(each => study().superclasses[each].name));
const capital = text => text[0].toUpperCase() + text.slice(1);
const boundWords = place => `${unit().values[place]} ${unit().unit}`;
const ownWeights = set => set.length <= study().largest;

function network(set, place) {
  const bound = unit(), count = classesOf(set);
  const row = bound.rows[bound.sets[set.join(",")] ?? bound.common[count]];
  const index = row[place], costs = study().costs.map(cost => cost.without[index] + cost.of_class * count);
  const parameters = study().parameters.without[index] + study().parameters.of_class * count;
  return {index, count, costs, parameters, ...study().archs[index]};
}

function bitsOf(one) { // decoded once; see any_set.expected_content
  one.bits ??= Uint8Array.from(atob(one.expected.beaten), mark => mark.charCodeAt(0));
  return one.bits;
}

function rightAnswers(set) { // of every arch that was asked, and of how many images
  const one = study(), {images, madds} = one.expected, bits = bitsOf(one);
  const width = Math.ceil(images.length / 8), total = sum(images), asked = new Uint8Array(width);
  set.forEach(each => { asked[each >> 3] |= 1 << (each & 7); });
  const right = madds.map((_, arch) => {
    let count = 0;
    for (const each of set) {
      const first = sum(images.slice(0, each));
      for (let image = first; image < first + images[each]; image++) {
        const start = (arch * total + image) * width;
        let beaten = 0;
        for (let byte = 0; byte < width; byte++) beaten |= bits[start + byte] & asked[byte];
        count += beaten === 0;
      }
    }
    return count;
  });
  return {right, count: sum(set.map(each => images[each]))};
}

function interpolated(x, xs, ys) {
  if (x <= xs[0]) return ys[0];
  const right = xs.findIndex(each => each >= x);
  if (right < 0) return ys.at(-1);
  return ys[right - 1] + (ys[right] - ys[right - 1]) * (x - xs[right - 1]) / (xs[right] - xs[right - 1]);
}

function expectedAt(set, madds, own) { // see eas.expected.ExpectedAccuracy: [expectation, low, high] at every cost
  const model = study().expected, {right, count} = rightAnswers(set);
  const known = right.map(each => Math.log((each + .5) / (count - each + .5)));
  return madds.map(cost => {
    let odds = interpolated(Math.log(cost), model.madds.map(Math.log), known);
    if (own) odds = model.branches[0] + model.branches[1] * odds + model.branches[2] * Math.log(set.length);
    const share = 1 / (1 + Math.exp(-odds)), error = model.errors[own ? 1 : 0] / 100;
    const margin = 1.96 * Math.sqrt(share * (1 - share) / count + error * error);
    return [share, share - margin, share + margin].map(each => Math.min(100, Math.max(0, 100 * each)));
  });
}

const usesOwn = set => choice.weights === "own" && ownWeights(set);
const resultsOf = (set, place) => study().measured.sets[set.join(",")]?.[choice.unit ? "" : unit().values[place]] ?? [];

// ------------------------------------------------------------------ in words

const percent = ([mean, low, high]) => `${mean.toFixed(1)} %` +
  (low == null ? "" : ` (${low.toFixed(1)} to ${high.toFixed(1)} %)`);

function aboutNetwork(set, place) {
  const it = network(set, place), costs = it.costs.map((cost, index) =>
    index ? `${cost.toPrecision(3)} milliseconds` : `${(cost / 1e6).toFixed(2)} million multiply-adds`);
  const parts = [...(choice.unit ? [costs[choice.unit]] : []), costs[0], `${Math.round(it.parameters / 1e3)} thousand parameters`];
  const pixels = it.pixels ? `, on images of ${it.pixels} pixels` : "";
  return `${namesOf(set)}, ${plural(it.count, "class")}, at most ${boundWords(place)}: ` +
    `a network of ${listed(parts)}${pixels}.`;
}

function aboutAccuracy(set, place) {
  if (!study().expected) return "";
  const [found] = expectedAt(set, [network(set, place).costs[0]], usesOwn(set));
  const weights = usesOwn(set) ? "weights of its own" : "the weights that all classes share";
  return ` With ${weights} it is expected to be right on ${percent(found)} of images.`;
}

function aboutResults(set, place) {
  const {own, shared, ofa, seeds} = study().measured, rows = resultsOf(set, place);
  const [mine, theirs] = [usesOwn(set) ? own : shared, ofa].map(method => rows.find(row => row[0] === method));
  if (!mine || !theirs) return "On test images, this set was not measured at this bound.";
  return `Measured on test images, ${seeds > 1 ? `mean of ${seeds} seeds` : "one seed"}: ${percent(mine.slice(1, 4))}; ` +
    `OFA's way, a search for this scenario alone, ${percent(theirs.slice(1, 4))}.`;
}

function aboutBeside() {
  if (!choice.beside.length) return "";
  const place = choice.apart ?? choice.bound, one = network(choice.set, choice.bound);
  const count = differing(one, network(choice.beside, place)).filter(Boolean).length;
  const told = one.index === network(choice.beside, place).index ? "Its arch is the same."
    : `Its arch differs in ${count} of ${one.forms.length} blocks.`;
  return `Beside it: ${aboutNetwork(choice.beside, place)} ${told}${aboutAccuracy(choice.beside, place)}`;
}

const differing = (one, other) => one.forms.map((form, block) => form !== other.forms[block]);

function unknown() { // why there is nothing to show, or nothing
  for (const set of [choice.set, choice.beside]) {
    if (set.length > unit().most) return `This page knows the archs of sets of up to ${unit().most} superclasses here.`;
  }
  return choice.set.length ? "" : "Pick at least one superclass.";
}

// ------------------------------------------------------------------ drawn

function figureOf(set, place, other, second) {
  const it = network(set, place), one = study(), changed = other ? differing(it, other) : it.forms.map(() => false);
  const tallest = Math.max(...one.stages.flatMap(stage => stage.full));
  let first = 0;
  const parts = one.stages.map((stage, index) => {
    const blocks = stage.blocks.map((name, block) => {
      const at = first + block, form = it.forms[at], {forms, sizes} = one.blocks[at], size = form < 0 ? 0 : sizes[form];
      return {name, changed: changed[at], full: stage.full[block] / tallest, share: size / stage.full[block],
        form: form < 0 ? "" : forms[form]};
    });
    first += blocks.length;
    return {name: it.pixels ? one.sized[it.pixels][index] : stage.name, blocks};
  });
  const told = parts.map(stage => stage.name + ": " + stage.blocks.map(block => (block.form || "left out") +
    (block.changed ? " (differs)" : "")).join(", ")).join("; ");
  return `<figure class="${other ? "compared" : ""} ${second ? "other" : ""}"><figcaption><b>${safe(capital(namesOf(set)))}</b>
    at most ${boundWords(place)}</figcaption>
    <div class="stages" role="img" aria-label="${safe("Forms of the blocks. " + told)}">${parts.map(stageOf).join("")}</div></figure>`;
}

function stageOf(stage) {
  const mark = block => block.changed ? "differs" : "";
  const blocks = stage.blocks.map(block => `<div class="block ${mark(block)}" style="height:${block.full * 88}%">
    <i style="height:${block.share * 100}%"></i>
    <b style="bottom:calc(${block.share * 100}% + 2px)">${safe(block.form)}</b></div>`);
  const names = stage.blocks.map(block => `<span class="${mark(block)}">${safe(block.name)}</span>`);
  const count = stage.blocks.length;
  return `<div class="stage" style="flex:${count} 1 ${count * 1.3}rem"><div class="blocks">${blocks.join("")}</div><div class="names">${names.join("")}</div>
    <p>${safe(stage.name)}</p></div>`;
}

function rowOf(name, found, over, span, classes = "", square = false) {
  const at = value => (value - span[0]) / (span[1] - span[0]) * 100, [mean, low, high] = found;
  const interval = low == null ? "" : `<small>${low.toFixed(1)} to ${high.toFixed(1)}</small>`;
  const bar = low == null ? "" : `<i style="left:${at(low)}%;width:${at(high) - at(low)}%"></i>`;
  const range = over && over[1] !== null ? `<small>${signed(over[1])} to ${signed(over[2])}</small>` : "";
  const points = over === undefined ? "" : `<td>${over === null ? "" : signed(over[0]) + range}</td>`;
  return `<tr class="${classes}"><th scope="row">${safe(name)}<div class="scale ${square ? "square" : ""}" aria-hidden="true">
    ${bar}<b style="left:${at(mean)}%"></b></div></th><td>${mean.toFixed(1)}${interval}</td>${points}</tr>`;
}

function headOf(caption, ...columns) {
  return `<caption>${caption}</caption><thead><tr>${columns.map(each => `<th scope="col">${each}</th>`).join("")}</tr></thead>`;
}

function drawTables(span, expected, rows) {
  const {methods, own, shared, ofa} = study().measured, used = usesOwn(choice.set) ? own : shared;
  get("expected").hidden = !expected.length;
  get("expected").innerHTML = headOf(`Expected before anything is measured, with 95 % intervals; lines run from ${span[0]} to ${span[1]}\u00a0%`, "network", "right, %") +
    `<tbody>${expected.map(([name, found, main]) => rowOf(name, found, undefined, span, "guess" + (main ? " main" : ""))).join("")}`;
  get("measured").hidden = !rows.length;
  get("measured").innerHTML = headOf("Measured on test images, with 95 % intervals over seeds", "method", "right, %", "points over OFA's way") +
    `<tbody>${rows.map(([method, ...each]) => rowOf(methods[method].label, each.slice(0, 3),
      method === ofa ? null : each.slice(3), span, method === used ? "main" : "", method === ofa)).join("")}`;
}

function drawReached() {
  const {measured} = study(), cost = network(choice.set, choice.bound).costs[0], expected = [];
  for (const [own, name] of [[true, "weights of its own"], [false, "weights that all classes share"]]) {
    if (!study().expected || own && !ownWeights(choice.set)) continue;
    expected.push([name, expectedAt(choice.set, [cost], own)[0], own === usesOwn(choice.set)]);
  }
  if (study().expected && choice.beside.length) {
    const beside = network(choice.beside, choice.apart ?? choice.bound).costs[0];
    expected.push([`beside it: ${namesOf(choice.beside)}`, expectedAt(choice.beside, [beside], usesOwn(choice.beside))[0]]);
  }
  const here = resultsOf(choice.set, choice.bound), budgets = Object.keys(measured.sets[choice.set.join(",")] ?? {});
  const size = choice.set.length, whole = study().superclasses.length;
  const kind = size === whole ? "all" : size === 1 ? "superclass" : size < 4 ? "union" : "large_union";
  const means = !here.length && !budgets.length ? measured.kinds[kind] ?? [] : [];
  get("measured-words").innerHTML = here.length ? "" : budgets.length ? choicesOf(budgets)
    : `<p>This set was not measured on test images.${means.length ? ` ${KINDS[kind]}, in the mean over all that were:` : ""}</p>`;
  const rows = here.length ? here : means, ends = [...expected.map(row => row[1]), ...rows.map(row => row.slice(1, 4))];
  const values = ends.flat().filter(each => each !== null);
  const span = [Math.max(0, Math.floor(Math.min(...values) - 1)), Math.min(100, Math.ceil(Math.max(...values) + 1))];
  drawTables(span, expected, rows);
}

function choicesOf(budgets) {
  const buttons = budgets.map(each => `<button type="button" data-budget="${each}">${each}</button>`).join(" ");
  return `<p>On test images, this set was measured at other bounds. Show one of them, in million multiply-adds:</p><p>${buttons}</p>`;
}

// ------------------------------------------------------------------ the curve

function drawCurve() {
  get("curve-box").hidden = !study().expected;
  if (!study().expected) return;
  const wide = Math.max(260, get("curve").clientWidth), high = wide < 500 ? 240 : 300, left = 34, bottom = 36, own = usesOwn(choice.set);
  const xs = unit().values, costs = set => xs.map((_, place) => network(set, place).costs[0]);
  const main = expectedAt(choice.set, costs(choice.set), own), lines = [["line", main]];
  if (own) lines.push(["line dashed", expectedAt(choice.set, costs(choice.set), false)]);
  if (choice.beside.length) lines.push(["line second", expectedAt(choice.beside, costs(choice.beside), usesOwn(choice.beside))]);
  const {ofa, own: mine, shared} = study().measured, marks = xs.flatMap((x, place) => resultsOf(choice.set, place)
    .filter(row => row[0] === ofa || row[0] === (own ? mine : shared)).map(row => [x, row])).sort((one, other) => (other[1][0] === ofa) - (one[1][0] === ofa)); // ours on top
  const ys = [...main.flat(), ...lines.flatMap(line => line[1].map(each => each[0])), ...marks.map(mark => mark[1][1])];
  const step = Math.max(...ys) - Math.min(...ys) > 16 ? 5 : 2;
  const low = Math.max(0, Math.floor(Math.min(...ys) / step) * step), top = Math.min(100, Math.ceil(Math.max(...ys) / step) * step);
  const X = x => left + (x - xs[0]) / ((xs.at(-1) - xs[0]) || 1) * (wide - left - 12), Y = y => 10 + (top - y) / (top - low) * (high - bottom - 10);
  const path = values => values.map((y, place) => `${place ? "L" : "M"}${X(xs[place]).toFixed(1)} ${Y(y).toFixed(1)}`).join("");
  const band = path(main.map(each => each[2])) + main.map((each, place) => [each[1], xs[place]]).reverse()
    .map(([y, x]) => `L${X(x).toFixed(1)} ${Y(y).toFixed(1)}`).join("") + "Z";
  const rules = Array.from({length: Math.round((top - low) / step) + 1}, (_, index) => low + index * step).map(y =>
    `<line class="grid" x1="${left}" x2="${wide - 12}" y1="${Y(y)}" y2="${Y(y)}"/><text x="${left - 6}" y="${Y(y) + 4}" text-anchor="end">${y}</text>`);
  const ticks = [0, 1, 2, 3, 4].map(part => xs[Math.round(part / 4 * (xs.length - 1))]).map(x =>
    `<text x="${X(x)}" y="${high - bottom + 18}" text-anchor="middle">${x}</text>`);
  const now = X(xs[choice.bound]);
  get("curve").innerHTML = `<svg viewBox="0 0 ${wide} ${high}" aria-hidden="true">${rules.join("")}${ticks.join("")}
    <text x="${(left + wide) / 2}" y="${high - 2}" text-anchor="middle">at most, ${safe(unit().unit)}</text>
    <path class="band" d="${band}"/><line class="now" x1="${now}" x2="${now}" y1="10" y2="${high - bottom}"/>
    ${lines.map(([look, values]) => `<path class="${look}" d="${path(values.map(each => each[0]))}"/>`).join("")}
    ${marks.map(([x, row]) => markAt(X(x), Y(row[1]), row[0] === ofa)).join("")}</svg>`;
  const ends = [main[0], main.at(-1)].map(each => each[0].toFixed(1));
  get("curve").setAttribute("aria-label", `Expected accuracy over the bound: from ${ends[0]} % at ${boundWords(0)} to ${ends[1]} % at ${boundWords(xs.length - 1)}.`);
  drawLegend(own, marks.length);
}

const markAt = (x, y, square) => square ? `<rect class="mark" x="${x - 4.5}" y="${y - 4.5}" width="9" height="9"/>`
  : `<circle class="mark full" cx="${x}" cy="${y}" r="4.5"/>`;

function drawLegend(own, marked) {
  const line = look => `<path class="${look}" d="M2 8H34"/>`, rows = [[line("line"), `expected, ${own ? "weights of its own" : "shared weights"}; shaded: 95 % interval`]];
  if (own) rows.push([line("line dashed"), "expected, weights that all classes share"]);
  if (choice.beside.length) rows.push([line("line second"), `beside it: ${namesOf(choice.beside)}`]);
  if (marked) rows.push([markAt(18, 8, false), `measured, ${own ? "weights of its own" : "shared weights"}`], [markAt(18, 8, true), "measured, OFA's way"]);
  get("legend").innerHTML = rows.map(([look, words]) => `<li><svg width="36" height="16" aria-hidden="true">${look}</svg>${safe(words)}</li>`).join("");
}

// ------------------------------------------------------------------ controls

function buildChips(id) {
  const many = study().superclasses.length > MANY, words = id === "set" ? "Superclasses" : "Superclasses to compare with";
  const tools = many ? `<input type="search" placeholder="Search" aria-label="Search superclasses and classes: ${words}">` : "";
  get(id).querySelectorAll("div").forEach(each => each.remove());
  get(id).insertAdjacentHTML("beforeend", `<div class="tools">${tools}<button type="button">Clear</button></div><div class="chips">` +
    study().superclasses.map((each, index) => `<label title="${safe(listed(each.classes))}"><input type="checkbox" value="${index}">
      <span>${safe(each.name)}</span></label>`).join("") + "</div>");
}

function build() { // what depends on the data set
  const one = study();
  get("studies").querySelector("div").innerHTML = data.studies.map((each, index) =>
    `<label><input type="radio" name="study" value="${index}"><span>${safe(each.name)}</span></label>`).join("");
  get("units").querySelector("div").innerHTML = one.bounds.map((each, index) =>
    `<label><input type="radio" name="unit" value="${index}"><span>${safe(each.unit)}</span></label>`).join("");
  get("units").hidden = one.bounds.length < 2;
  ["set", "beside"].forEach(buildChips);
  const missing = data.missing.length ? ` Not on this page: ${listed(data.missing)}, whose networks are not published.` : "";
  const synthetic = one.synthetic ? " These images are synthetic." : "";
  get("about").textContent = `${one.about}${synthetic} Archs and expected accuracies are those of the networks of the first seed, ` +
    `${one.measured.seeds > 1 ? `measured ones are means over ${one.measured.seeds} seeds` : "as are measured ones"}.${missing}`;
  get("words").innerHTML = [...data.words, ...one.bounds.slice(1).map(each => ["milliseconds", `Bounded: ${each.told}.`]),
    ...one.measured.methods.map(each => [each.label, each.told + "."])].map(([word, told]) => `<dt>${safe(word)}<dd>${safe(told)}`).join("");
}

function showControls() {
  const check = (id, values) => document.querySelectorAll(`#${id} input:is([type=checkbox], [type=radio])[value]`).forEach(each => {
    each.checked = values.includes(each.value); });
  check("studies", [String(choice.study)]);
  check("units", [String(choice.unit)]);
  for (const id of ["set", "beside"]) {
    check(`${id} .chips`, choice[id].map(String));
    get(id).querySelector(".count").textContent = choice[id].length ? `(${choice[id].length} picked, ${plural(classesOf(choice[id]), "class")})` : "";
  }
  for (const [id, place] of [["bound", choice.bound], ["beside-bound", choice.apart ?? choice.bound]]) {
    get(id).max = unit().values.length - 1;
    get(id).value = place;
    get(id).setAttribute("aria-valuetext", "at most " + boundWords(place));
    get(id + "-told").textContent = boundWords(place);
  }
  get("same").checked = choice.apart === null;
  get("beside-bound").disabled = choice.apart === null;
  const own = ownWeights(choice.set);
  check("weights", [own ? choice.weights : "shared"]);
  get("weights").querySelector("[value=own]").disabled = !own;
  get("weights-hint").textContent = !study().largest ? "No set has weights of its own here: on the selection images, they lost."
    : own ? "Their own are the shared weights plus the mean of what was learned for each superclass."
    : `Sets of more than ${plural(study().largest, "superclass")} take those that all classes share.`;
}

function draw() {
  showControls();
  const problem = unknown(), beside = choice.beside.length > 0;
  get("drawn").hidden = get("reached").hidden = Boolean(problem);
  const sentences = problem ? [problem] : [capital(aboutNetwork(choice.set, choice.bound)) + aboutAccuracy(choice.set, choice.bound),
    aboutResults(choice.set, choice.bound), aboutBeside()];
  get("answer").innerHTML = sentences.filter(Boolean).map(each => `<p>${safe(each)}</p>`).join("");
  get("classes").textContent = problem ? "" : "Classes that it tells apart: " +
    listed(choice.set.flatMap(each => study().superclasses[each].classes)) + ".";
  if (problem) return;
  const place = choice.apart ?? choice.bound, other = beside ? network(choice.beside, place) : null;
  get("arch-title").textContent = beside ? "The two archs" : "The arch";
  get("archs").innerHTML = figureOf(choice.set, choice.bound, other, false) +
    (beside ? figureOf(choice.beside, place, network(choice.set, choice.bound), true) : "");
  get("differs").textContent = beside ? " Blocks that differ have a solid outline, and \u2260 at their number." : "";
  drawReached();
  drawCurve();
}

// ------------------------------------------------------------------ the address

function writeAddress() {
  const asked = new URLSearchParams({data: study().key}), name = each => study().superclasses[each].name;
  choice.set.forEach(each => asked.append("set", name(each)));
  asked.append(unit().key, unit().values[choice.bound]);
  asked.append("weights", choice.weights);
  choice.beside.forEach(each => asked.append("beside", name(each)));
  if (choice.beside.length && choice.apart !== null) asked.append("beside-" + unit().key, unit().values[choice.apart]);
  history.replaceState(null, "", "#" + asked);
}

function nearest(values, asked) {
  const off = values.map(each => Math.abs(each - asked));
  return off.indexOf(Math.min(...off));
}

function readAddress() {
  const asked = new URLSearchParams(location.hash.slice(1));
  choice.study = Math.max(0, data.studies.findIndex(each => each.key === asked.get("data")));
  const names = study().superclasses.map(each => each.name);
  const members = key => [...new Set(asked.getAll(key).map(name => names.indexOf(name)))].filter(each => each >= 0).sort((a, b) => a - b);
  choice.set = members("set");
  choice.beside = members("beside");
  if (!choice.set.length && !asked.has("data")) choice.set = [0];
  choice.unit = Math.max(0, study().bounds.findIndex(each => asked.has(each.key)));
  const middle = unit().values[unit().values.length >> 1], value = key => Number(asked.get(key) ?? middle);
  choice.bound = nearest(unit().values, value(unit().key) || middle);
  choice.apart = asked.has("beside-" + unit().key) ? nearest(unit().values, value("beside-" + unit().key) || middle) : null;
  choice.weights = asked.get("weights") === "shared" ? "shared" : "own";
  if (choice.beside.length) get("compare").open = true;
  build();
  draw();
}

function changed() {
  writeAddress();
  draw();
}

function changeStudy(index) { // superclasses and bounds are others: begin anew, with the same kind of weights
  Object.assign(choice, {study: index, unit: 0, set: [0], beside: [], apart: null, bound: data.studies[index].bounds[0].values.length >> 1});
  build();
  changed();
  document.querySelector("#studies :checked").focus();
}

get("controls").addEventListener("input", ({target}) => {
  const group = target.closest("#set, #beside");
  if (target.type === "search") return search(group, target.value.toLowerCase());
  if (target.name === "study") return changeStudy(Number(target.value));
  if (target.name === "unit") Object.assign(choice, {unit: Number(target.value), bound: study().bounds[target.value].values.length >> 1, apart: null});
  if (target.name === "weights") choice.weights = target.value;
  if (group) choice[group.id] = [...group.querySelectorAll(".chips :checked")].map(each => Number(each.value));
  if (target.id === "bound") choice.bound = Number(target.value);
  if (target.id === "beside-bound") choice.apart = Number(target.value);
  if (target.id === "same") choice.apart = target.checked ? null : choice.bound;
  changed();
});

function search(group, text) { // what is picked stays in sight
  group.querySelectorAll(".chips label").forEach((each, index) => {
    const one = study().superclasses[index], found = [one.name, ...one.classes].some(name => name.toLowerCase().includes(text));
    each.hidden = !found && !each.querySelector("input").checked;
  });
}

function showBudget(budget) { // results are of budgets of multiply-adds
  choice.unit = 0;
  choice.bound = nearest(unit().values, budget);
  choice.apart = null;
  changed();
  get("bound").focus();
}

document.addEventListener("click", event => {
  const {target} = event;
  if (target.matches(".tools button")) { choice[target.closest("fieldset").id] = []; changed(); }
  if (target.dataset?.budget) showBudget(Number(target.dataset.budget));
  if (target.matches(".skip")) { event.preventDefault(); get("answer").focus(); } // the address is the choice's
});

get("controls").addEventListener("submit", event => event.preventDefault());
get("copy").addEventListener("click", async () => {
  writeAddress();
  try { await navigator.clipboard.writeText(location.href); get("copied").textContent = "Copied."; }
  catch { get("copied").textContent = "The link is this page's address, above."; }
});
addEventListener("resize", () => { if (!unknown()) drawCurve(); });
addEventListener("hashchange", readAddress);
readAddress();
