// What the page knows: a network's arch and costs, what to expect of it, and how that is said.

// What is chosen: `set` and `beside` are numbers of superclasses, `bound` and `apart` places in the list of bounds.
const choice = {study: 0, unit: 0, set: [], bound: 0, weights: "own", beside: [], apart: null};
const get = id => document.getElementById(id);
const sum = numbers => numbers.reduce((one, other) => one + other, 0);
const study = () => data.studies[choice.study];
const unit = () => study().bounds[choice.unit];
const first = () => network(choice.set, choice.bound);
const second = () => network(choice.beside, placeBeside());
const placeBeside = () => choice.apart ?? choice.bound;

const classesOf = set => sum(set.map(each => study().superclasses[each].classes.length));
const ownWeights = set => set.length <= study().largest; // whether a set has some
const usesOwn = set => choice.weights === "own" && ownWeights(set);
const differing = (one, other) => one.forms.map((form, block) => form !== other.forms[block]);

function network(set, place) {
  const one = study(), bound = unit(), count = classesOf(set);
  const index = bound.rows[bound.sets[set.join(",")] ?? bound.common[count]][place];
  const costOf = cost => cost.without[index] + cost.of_class * count;
  return {index, count, costs: one.costs.map(costOf), parameters: costOf(one.parameters), ...one.archs[index]};
}

function resultsOf(set, place) { // of budgets of multiply-adds
  const budgets = study().measured.sets[set.join(",")] ?? {};
  return choice.unit ? [] : budgets[unit().values[place]] ?? [];
}

function unknown() { // why there is nothing to show, or nothing
  for (const set of [choice.set, choice.beside]) {
    if (set.length > unit().most) {
      return `This page knows the archs of sets of up to ${plural(unit().most, "superclass")} here.`;
    }
  }
  return choice.set.length ? "" : "Pick at least one superclass.";
}

// ------------------------------------------------------------------ expected accuracy

function bitsOf(one) { // decoded once; see sets.py
  one.bits ??= Uint8Array.from(atob(one.expected.beaten), mark => mark.charCodeAt(0));
  return one.bits;
}

function rightAnswers(set) { // of every arch that was asked, and of how many images
  const {images, madds} = study().expected, bits = bitsOf(study());
  const width = Math.ceil(images.length / 8), total = sum(images), asked = new Uint8Array(width);
  set.forEach(each => { asked[each >> 3] |= 1 << (each & 7); });
  const isRight = start => asked.every((byte, at) => !(bits[start + at] & byte));
  const right = madds.map((_, arch) => {
    let count = 0;
    for (const each of set) {
      const before = arch * total + sum(images.slice(0, each));
      for (let image = before; image < before + images[each]; image++) count += isRight(image * width);
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

function expectedAt(set, madds, own) { // as eas.expected.ExpectedAccuracy: expectation, low and high at every cost
  const {branches, errors, madds: asked} = study().expected, {right, count} = rightAnswers(set);
  const known = right.map(each => Math.log((each + .5) / (count - each + .5)));
  return madds.map(cost => {
    let odds = interpolated(Math.log(cost), asked.map(Math.log), known);
    if (own) odds = branches[0] + branches[1] * odds + branches[2] * Math.log(set.length);
    const share = 1 / (1 + Math.exp(-odds)), error = errors[own ? 1 : 0] / 100;
    const margin = 1.96 * Math.sqrt(share * (1 - share) / count + error * error);
    return [share, share - margin, share + margin].map(each => Math.min(100, Math.max(0, 100 * each)));
  });
}

const expectedOf = (set, it, own = usesOwn(set)) => expectedAt(set, [it.costs[0]], own)[0];

// ------------------------------------------------------------------ in words

const safe = text => String(text).replace(/[&<>"']/g, mark => "&#" + mark.charCodeAt(0) + ";");
const capital = text => text[0].toUpperCase() + text.slice(1);
const listed = names => names.length < 2 ? names.join("") : names.slice(0, -1).join(", ") + " and " + names.at(-1);
const plural = (count, word) => `${count} ${word}${count === 1 ? "" : word.endsWith("s") ? "es" : "s"}`;
const signed = value => (value < 0 ? "\u2212" : "+") + Math.abs(value).toFixed(1);
const namesOf = set => listed(set.map(each => study().superclasses[each].name));
const boundWords = place => `${unit().values[place]} ${unit().unit}`;
const weightsName = own => own ? "weights of its own" : "weights that all classes share";

function percent([mean, low, high]) {
  return `${mean.toFixed(1)} %` + (low === null ? "" : ` (${low.toFixed(1)} to ${high.toFixed(1)} %)`);
}

function aboutNetwork(set, place) {
  const it = network(set, place), pixels = it.pixels ? `, on images of ${it.pixels} pixels` : "";
  const parts = [`${(it.costs[0] / 1e6).toFixed(2)} million multiply-adds`];
  if (choice.unit) parts.unshift(`${it.costs[choice.unit].toPrecision(3)} milliseconds`);
  parts.push(`${Math.round(it.parameters / 1e3)} thousand parameters`);
  return `${namesOf(set)}, ${plural(it.count, "class")}, at most ${boundWords(place)}: ` +
    `a network of ${listed(parts)}${pixels}.`;
}

function aboutAccuracy(set, it) {
  if (!study().expected) return "";
  const weights = (usesOwn(set) ? "" : "the ") + weightsName(usesOwn(set));
  return ` With ${weights} it is expected to be right on ${percent(expectedOf(set, it))} of images.`;
}

function aboutResults(set, place) {
  const {own, shared, ofa, seeds, sets} = study().measured, rows = resultsOf(set, place);
  const [mine, theirs] = [usesOwn(set) ? own : shared, ofa].map(method => rows.find(row => row[0] === method));
  const where = sets[set.join(",")] ? " at this bound" : "";
  if (!mine || !theirs) return `On test images, this set was not measured${where}.`;
  const over = seeds > 1 ? `mean of ${seeds} seeds` : "one seed";
  return `Measured on test images, ${over}: ${percent(mine.slice(1, 4))}; ` +
    `OFA's way, a search for this scenario alone, ${percent(theirs.slice(1, 4))}.`;
}

function aboutBeside() {
  if (!choice.beside.length) return "";
  const one = first(), other = second(), count = differing(one, other).filter(Boolean).length;
  const size = one.pixels === other.pixels ? "" : " and in the size of images";
  const told = one.index === other.index ? "is the same" : `differs in ${count} of ${one.forms.length} blocks${size}`;
  return `Beside it: ${aboutNetwork(choice.beside, placeBeside())} Its arch ${told}.` +
    aboutAccuracy(choice.beside, other);
}

function answer() { // all sentences
  const main = capital(aboutNetwork(choice.set, choice.bound)) + aboutAccuracy(choice.set, first());
  return [main, aboutResults(choice.set, choice.bound), aboutBeside()].filter(Boolean);
}
