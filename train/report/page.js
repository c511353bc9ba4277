"use strict";
// The page's plots. Their data are in the page as JSON; nothing is loaded.

const read = (id) => JSON.parse(document.getElementById(id).textContent);
const FLAT = {responsive: true, displayModeBar: false};
const SOLID = {responsive: true, displaylogo: false, displayModeBar: "hover"};
const FONT = {family: "system-ui, -apple-system, Segoe UI, Roboto, sans-serif", size: 12, color: "#1f2933"};
// Red is positive and blue negative, of potentials and of charges alike (ColorBrewer's RdBu).
const SCALE = [
  [0, "#053061"], [0.1, "#2166ac"], [0.2, "#4393c3"], [0.3, "#92c5de"], [0.4, "#d1e5f0"], [0.5, "#f7f7f7"],
  [0.6, "#fddbc7"], [0.7, "#f4a582"], [0.8, "#d6604d"], [0.9, "#b2182b"], [1, "#67001f"],
];
const POSITIVE = "#b2182b", NEGATIVE = "#2166ac";
const TITLES = {reference: "reference", predicted: "prediction", difference: "prediction − reference"};

const signed = (value, digits) => (value === null ? "not a number" : (value > 0 ? "+" : "") + value.toFixed(digits));
const significant = (value) => (value === null ? "not a number" : String(Number(value.toPrecision(3))));

// Values of an object with a reference and a prediction at each of its points.
function valuesOf(points, quantity) {
  if (quantity !== "difference") return points[quantity];
  return points.predicted.map((value, i) => (value === null ? null : value - points.reference[i]));
}

// A closed mesh: vertices and triangles of many small bodies, appended one after another.
class Bodies {
  constructor() {
    Object.assign(this, {x: [], y: [], z: [], i: [], j: [], k: [], colours: [], texts: []});
  }

  // Rings of points around an axis, from `rings`: [centre, radius] pairs along the direction.
  add(rings, direction, colour, text) {
    const [u, v] = perpendicular(direction), turns = 18, first = this.x.length;
    for (const [centre, radius] of rings) {
      for (let t = 0; t < turns; t++) {
        const c = radius * Math.cos((2 * Math.PI * t) / turns), s = radius * Math.sin((2 * Math.PI * t) / turns);
        this.x.push(centre[0] + c * u[0] + s * v[0]);
        this.y.push(centre[1] + c * u[1] + s * v[1]);
        this.z.push(centre[2] + c * u[2] + s * v[2]);
        this.colours.push(colour);
        this.texts.push(text);
      }
    }
    for (let r = 0; r + 1 < rings.length; r++) {
      for (let t = 0; t < turns; t++) {
        const a = first + r * turns + t, b = first + r * turns + ((t + 1) % turns), c = a + turns, d = b + turns;
        this.i.push(a, b);
        this.j.push(b, d);
        this.k.push(c, c);
      }
    }
  }

  sphere(centre, radius, colour, text) {
    const rings = Array.from({length: 13}, (_, r) => {
      const angle = (Math.PI * r) / 12;
      return [[centre[0], centre[1], centre[2] - radius * Math.cos(angle)], radius * Math.sin(angle)];
    });
    this.add(rings, [0, 0, 1], colour, text);
  }

  cylinder(from, to, radius, colour) {
    const direction = to.map((value, axis) => value - from[axis]);
    this.add([[from, radius], [to, radius]], direction, colour, "");
  }

  trace() {
    const {x, y, z, i, j, k} = this;
    // The uid: plotly would else take this mesh for the surface that stood in its place, and keep its colours.
    return {
      type: "mesh3d", uid: "atoms", x, y, z, i, j, k, vertexcolor: this.colours, hovertext: this.texts,
      hovertemplate: "%{hovertext}<extra></extra>", flatshading: false,
      lighting: {ambient: 0.6, diffuse: 0.6, specular: 0.25, roughness: 0.5, fresnel: 0.05},
      lightposition: {x: 2000, y: -4000, z: 6000},
    };
  }
}

function perpendicular(direction) {
  const length = Math.hypot(...direction), d = direction.map((value) => value / length);
  const other = Math.abs(d[2]) < 0.9 ? [0, 0, 1] : [1, 0, 0];
  const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
  const u = cross(other, d), size = Math.hypot(...u), unit = u.map((value) => value / size);
  return [unit, cross(d, unit)];
}

function atomsTrace(molecule, share, thickness) {
  const {atoms, bonds} = molecule, bodies = new Bodies();
  const place = (a) => [atoms.x[a], atoms.y[a], atoms.z[a]];
  for (const [a, b] of bonds) {
    const middle = place(a).map((value, axis) => (value + place(b)[axis]) / 2);
    bodies.cylinder(place(a), middle, thickness, atoms.colour[a]);
    bodies.cylinder(middle, place(b), thickness, atoms.colour[b]);
  }
  atoms.symbol.forEach((symbol, a) => {
    const text = `<b>${symbol}</b> (atom ${a + 1})<br>PhysNet's charge ${signed(atoms.charge[a], 3)} e`;
    bodies.sphere(place(a), share * atoms.radius[a], atoms.colour[a], text);
  });
  return bodies.trace();
}

function surfaceTrace(molecule, quantity, bound) {
  const {x, y, z, i, j, k} = molecule.surface;
  return {
    type: "mesh3d", uid: "surface", x, y, z, i, j, k, intensity: valuesOf(molecule.surface, quantity), cmin: -bound, cmax: bound,
    colorscale: SCALE, showscale: false, hoverinfo: "skip", opacity: 1, flatshading: false,
    lighting: {ambient: 0.8, diffuse: 0.3, specular: 0.08, roughness: 0.7, fresnel: 0},
    lightposition: {x: 2000, y: -4000, z: 6000},
  };
}

function gridTrace(molecule, quantity, bound, size) {
  const {grid} = molecule, difference = valuesOf(grid, "difference");
  const text = grid.x.map((_, p) =>
    `reference ${signed(grid.reference[p], 2)} kcal/mol/e<br>prediction ${signed(grid.predicted[p], 2)} kcal/mol/e` +
    `<br><b>difference ${signed(difference[p], 2)} kcal/mol/e</b>`);
  return {
    type: "scatter3d", uid: "grid", mode: "markers", x: grid.x, y: grid.y, z: grid.z, text,
    hovertemplate: "%{text}<extra>grid point</extra>",
    marker: {
      size, color: valuesOf(grid, quantity), cmin: -bound, cmax: bound, colorscale: SCALE, opacity: 1,
      line: {color: "#6b7680", width: 0.5},
      colorbar: {
        title: {text: `ESP, ${TITLES[quantity]}, kcal/mol/e`, side: "right"}, thickness: 14, len: 0.86,
        outlinewidth: 0.5,
      },
    },
  };
}

function sitesTrace(molecule) {
  const {sites, atoms} = molecule;
  const largest = Math.max(...sites.charge.map((charge) => Math.abs(charge ?? 0)), 1e-12);
  const text = sites.charge.map((charge, s) =>
    `<b>${signed(charge, 4)} e</b><br>of ${atoms.symbol[sites.atom[s]]} (atom ${sites.atom[s] + 1})`);
  return {
    type: "scatter3d", uid: "charges", mode: "markers", x: sites.x, y: sites.y, z: sites.z, text,
    hovertemplate: "%{text}<extra>distributed charge</extra>",
    marker: {
      size: sites.charge.map((charge) => Math.max(4, 22 * Math.sqrt(Math.abs(charge ?? 0) / largest))), sizemode: "diameter",
      color: sites.charge.map((charge) => (charge > 0 ? POSITIVE : NEGATIVE)), opacity: 0.85,
      line: {color: "white", width: 1},
    },
  };
}

function symbolsTrace(molecule) {
  const {x, y, z, symbol} = molecule.atoms;
  return {
    type: "scatter3d", uid: "symbols", mode: "text", x, y, z, text: symbol.map((name) => `<b>${name}</b>`), hoverinfo: "skip",
    textposition: "top right", textfont: {size: 13, color: "#1f2933"},
  };
}

// A cube that holds the points, with a margin in Å: one Å is as long in every direction.
function cubeAround(points, margin) {
  const ends = ["x", "y", "z"].map((name) => [Math.min(...points[name]), Math.max(...points[name])]);
  const half = Math.max(...ends.map(([low, high]) => (high - low) / 2)) + margin;
  return ends.map(([low, high]) => [(low + high) / 2 - half, (low + high) / 2 + half]);
}

function sceneLayout(cube, camera, revision) {
  const axis = (name, range) => ({
    range,
    title: {text: `${name}, Å`, font: {size: 11}}, showbackground: false, gridcolor: "#dfe3e8", zeroline: false,
    tickfont: {size: 10, color: "#6b7680"}, nticks: 6, showspikes: false,
  });
  return {
    font: FONT, margin: {l: 0, r: 0, t: 0, b: 0}, paper_bgcolor: "white", showlegend: false, uirevision: revision,
    scene: {
      xaxis: axis("x", cube[0]), yaxis: axis("y", cube[1]), zaxis: axis("z", cube[2]), aspectmode: "cube", camera,
      dragmode: "orbit",
    },
    hoverlabel: {bgcolor: "white", bordercolor: "#6b7680", font: {size: 12, color: "#1f2933"}, align: "left"},
  };
}

// The two views of one molecule, which turn together.
class Viewer {
  constructor(molecules) {
    this.molecules = molecules;
    this.revision = 0;
    this.left = document.getElementById("view-esp");
    this.right = document.getElementById("view-charges");
    this.choice = document.getElementById("molecule");
    this.quantities = [...document.querySelectorAll("input[name=quantity]")];
    this.shown = [...document.querySelectorAll("input[name=shown]")];
    for (const input of [...this.quantities, ...this.shown]) input.addEventListener("change", () => this.draw());
    this.choice.addEventListener("change", () => this.begin());
    document.getElementById("turn-back").addEventListener("click", () => this.begin());
  }

  // Seen from the molecule's own side again.
  begin() {
    this.camera = this.molecules[Number(this.choice.value)].view;
    this.revision += 1;
    return this.draw();
  }

  async draw() {
    const molecule = this.molecules[Number(this.choice.value)];
    const quantity = this.quantities.find((input) => input.checked).value;
    const shown = new Set(this.shown.filter((input) => input.checked && !input.disabled).map((input) => input.value));
    const bound = quantity === "difference" ? molecule.bound_difference : molecule.bound;
    const left = [gridTrace(molecule, quantity, bound, shown.has("surface") ? 2.6 : 5)];
    // Without points their trace stays, for the colour bar.
    if (!shown.has("points")) left[0] = {...left[0], x: [null], y: [null], z: [null], hoverinfo: "skip"};
    if (shown.has("surface") && molecule.surface) left.push(surfaceTrace(molecule, quantity, bound));
    if (!shown.has("surface") || !molecule.surface) left.push(atomsTrace(molecule, 0.5, 0.12));
    const outer = cubeAround(molecule.grid, 0.2), inner = cubeAround(molecule.atoms, 0.7);
    await Plotly.react(this.left, left, sceneLayout(outer, this.camera, this.revision), SOLID);
    const right = [atomsTrace(molecule, 0.14, 0.03), symbolsTrace(molecule), sitesTrace(molecule)];
    await Plotly.react(this.right, right, sceneLayout(inner, this.camera, this.revision), SOLID);
    this.describe(molecule);
    this.join(this.left, this.right);
    this.join(this.right, this.left);
  }

  describe(molecule) {
    document.getElementById("molecule-facts").textContent =
      `${molecule.formula}, row ${molecule.row} of the input: ${molecule.why}. ESP RMSE ` +
      `${significant(molecule.rmse)} kcal/mol/e over ${molecule.n_points} grid points; colour scales end at ` +
      `±${significant(molecule.bound)} (reference, prediction) and ±${significant(molecule.bound_difference)} ` +
      "kcal/mol/e (difference).";
  }

  // Turning one view turns the other.
  join(from, to) {
    if (from.joined) return;
    from.joined = true;
    let busy = false;
    const follow = async (event) => {
      const camera = event["scene.camera"];
      if (!camera || busy) return;
      this.camera = camera;
      if (JSON.stringify(to.layout.scene.camera) === JSON.stringify(camera)) return;
      busy = true;
      await Plotly.relayout(to, {"scene.camera": camera});
      busy = false;
    };
    from.on("plotly_relayout", follow);
    from.on("plotly_relayouting", follow);
  }
}

async function drawAll() {
  const figures = read("figures");
  for (const [id, figure] of Object.entries(figures)) {
    await Plotly.newPlot(id, figure.data, figure.layout, FLAT);
  }
  const molecules = read("molecules");
  if (molecules.length) await new Viewer(molecules).begin();
  document.body.dataset.drawn = "yes";
}

window.addEventListener("error", (event) => { document.body.dataset.error = event.message; });
window.addEventListener("unhandledrejection", (event) => { document.body.dataset.error = String(event.reason); });
drawAll();
