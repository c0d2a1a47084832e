// What a reader picks with, and the address that holds it.

const MANY = 12; // superclasses, of more there is a search

// ------------------------------------------------------------------ for a data set

function build() {
  const one = study(), radio = name => (each, index) =>
    `<label><input type="radio" name="${name}" value="${index}"><span>${safe(each)}</span></label>`;
  get("studies").querySelector("div").innerHTML = data.studies.map(each => each.name).map(radio("study")).join("");
  get("units").querySelector("div").innerHTML = one.bounds.map(each => each.unit).map(radio("unit")).join("");
  get("units").hidden = one.bounds.length < 2;
  buildChips("set", "superclasses");
  buildChips("beside", "superclasses to compare with");
  get("about").textContent = aboutStudy();
  const words = [...data.words, ...one.bounds.slice(1).map(each => ["milliseconds", `Bounded: ${each.told}.`]),
    ...one.measured.methods.map(each => [each.label, capital(each.told) + "."])];
  get("words").innerHTML = words.map(([word, told]) => `<dt>${safe(word)}</dt><dd>${safe(told)}</dd>`).join("");
}

function buildChips(id, words) {
  const many = study().superclasses.length > MANY;
  const clear = `<button type="button" class="clear" aria-label="Clear: ${words}">Clear</button>`;
  const find = `<input type="search" placeholder="Search" aria-label="Search ${words}, and their classes">`;
  const chips = study().superclasses.map((each, index) => `<label title="${safe(listed(each.classes))}">
    <input type="checkbox" value="${index}"><span>${safe(each.name)}</span></label>`);
  get(id).querySelectorAll("div").forEach(each => each.remove());
  get(id).insertAdjacentHTML("beforeend", `${many ? `<div class="tools">${find}${clear}</div>` : ""}
    <div class="chips">${chips.join("")}${many ? "" : clear}</div>`);
}

function aboutStudy() {
  const {about, synthetic, measured: {seeds}} = study(), {missing} = data;
  const over = seeds > 1 ? `measured ones are means over ${seeds} seeds` : "as are measured ones";
  return about + (synthetic ? " These images are synthetic." : "") +
    ` Archs and expected accuracies are those of the networks of the first seed, ${over}.` +
    (missing.length ? ` Not on this page: ${listed(missing)}, whose networks are not published.` : "");
}

// ------------------------------------------------------------------ what they show

function draw() {
  showControls();
  const problem = unknown(), classes = choice.set.flatMap(each => study().superclasses[each].classes);
  get("drawn").hidden = get("reached").hidden = Boolean(problem);
  get("answer").innerHTML = (problem ? [problem] : answer()).map(each => `<p>${safe(each)}</p>`).join("");
  get("classes").textContent = problem ? "" : `Classes that it tells apart: ${listed(classes)}.`;
  if (problem) return;
  drawArchs();
  drawTables();
  drawCurve();
}

function check(place, picked) {
  document.querySelectorAll(`${place} input:is([type=checkbox], [type=radio])`).forEach(each => {
    each.checked = picked.includes(each.value);
  });
}

function showControls() {
  check("#studies", [String(choice.study)]);
  check("#units", [String(choice.unit)]);
  for (const id of ["set", "beside"]) {
    const picked = choice[id], told = `(${picked.length} picked, ${plural(classesOf(picked), "class")})`;
    check(`#${id}`, picked.map(String));
    get(id).querySelector(".count").textContent = picked.length ? told : "";
  }
  showBound("bound", choice.bound);
  showBound("beside-bound", placeBeside());
  get("same").checked = choice.apart === null;
  get("beside-bound").disabled = choice.apart === null;
  showWeights();
}

function showBound(id, place) {
  get(id).max = unit().values.length - 1;
  get(id).value = place;
  get(id).setAttribute("aria-valuetext", `at most ${boundWords(place)}`);
  get(`${id}-told`).textContent = boundWords(place);
}

function showWeights() {
  const own = ownWeights(choice.set), {largest} = study();
  check("#weights", [own ? choice.weights : "shared"]);
  get("weights").querySelector("[value=own]").disabled = !own;
  get("weights-hint").textContent = !largest ? "There are no weights of a set's own here."
    : own ? "Their own are the shared weights plus the mean of what was learned for each superclass."
    : `Sets of more than ${plural(largest, "superclass")} take those that all classes share.`;
}

// ------------------------------------------------------------------ the address

function writeAddress() {
  const asked = new URLSearchParams({data: study().key}), name = each => study().superclasses[each].name;
  choice.set.forEach(each => asked.append("set", name(each)));
  asked.append(unit().key, unit().values[choice.bound]);
  asked.append("weights", choice.weights);
  choice.beside.forEach(each => asked.append("beside", name(each)));
  if (choice.beside.length && choice.apart !== null) asked.append(`beside-${unit().key}`, unit().values[choice.apart]);
  history.replaceState(null, "", `#${asked}`);
}

function nearest(asked) { // the place of the bound; the middle one for what is no number
  const values = unit().values, off = values.map(each => Math.abs(each - asked));
  return asked > 0 ? off.indexOf(Math.min(...off)) : values.length >> 1;
}

function readAddress() {
  const asked = new URLSearchParams(location.hash.slice(1));
  choice.study = Math.max(0, data.studies.findIndex(each => each.key === asked.get("data")));
  const members = key => [...study().superclasses.keys()].filter(each =>
    asked.getAll(key).includes(study().superclasses[each].name));
  choice.set = members("set");
  choice.beside = members("beside");
  if (!choice.set.length && !asked.has("data")) choice.set = [0];
  choice.unit = Math.max(0, study().bounds.findIndex(each => asked.has(each.key)));
  const key = unit().key;
  choice.bound = nearest(Number(asked.get(key)));
  choice.apart = asked.has(`beside-${key}`) ? nearest(Number(asked.get(`beside-${key}`))) : null;
  choice.weights = asked.get("weights") === "shared" ? "shared" : "own";
  if (choice.beside.length) get("compare").open = true;
  build();
  draw();
}

// ------------------------------------------------------------------ what happens

function changed() {
  writeAddress();
  draw();
}

function changeUnit(index) {
  Object.assign(choice, {unit: index, apart: null});
  choice.bound = nearest(NaN);
}

function changeStudy(index) { // superclasses and bounds are others: begin anew, with the same kind of weights
  Object.assign(choice, {study: index, set: [0], beside: []});
  changeUnit(0);
  build();
  changed();
  document.querySelector("#studies :checked").focus();
}

function showBudget(budget) { // results are of budgets of multiply-adds
  changeUnit(0);
  choice.bound = nearest(budget);
  changed();
  get("bound").focus();
}

function search(group, text) { // what is picked stays in sight
  group.querySelectorAll(".chips label").forEach((each, index) => {
    const {name, classes} = study().superclasses[index];
    const found = [name, ...classes].some(known => known.toLowerCase().includes(text.toLowerCase()));
    each.hidden = !found && !each.querySelector("input").checked;
  });
}

get("controls").addEventListener("input", ({target}) => {
  const group = target.closest("#set, #beside");
  if (target.type === "search") return search(group, target.value);
  if (target.name === "study") return changeStudy(Number(target.value));
  if (target.name === "unit") changeUnit(Number(target.value));
  if (target.name === "weights") choice.weights = target.value;
  if (group) choice[group.id] = [...group.querySelectorAll(":checked")].map(each => Number(each.value));
  if (target.id === "bound") choice.bound = Number(target.value);
  if (target.id === "beside-bound") choice.apart = Number(target.value);
  if (target.id === "same") choice.apart = target.checked ? null : choice.bound;
  changed();
});

document.addEventListener("click", event => {
  const {target} = event;
  if (target.matches(".clear")) {
    choice[target.closest("fieldset").id] = [];
    changed();
  }
  if (target.matches("[data-budget]")) showBudget(Number(target.dataset.budget));
  if (target.matches(".skip")) { // a link would take the address from the choice
    event.preventDefault();
    get("answer").focus();
  }
});

get("copy").addEventListener("click", async () => {
  writeAddress();
  try {
    await navigator.clipboard.writeText(location.href);
    get("copied").textContent = "Copied.";
  } catch {
    get("copied").textContent = "The link is this page's address, above.";
  }
});

get("controls").addEventListener("submit", event => event.preventDefault());
addEventListener("resize", () => { if (!unknown()) drawCurve(); });
addEventListener("hashchange", readAddress);
readAddress();
