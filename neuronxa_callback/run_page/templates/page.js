// Puts the interactive plots in the place of the pictures, and shows the languages that the reader chooses.
(() => {
  "use strict";
  const MOST = 7; // languages at first: as many as there are colours
  const CONFIG = {responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"]};
  const charts = [...document.querySelectorAll("figure.chart")];
  const chooser = document.querySelector("form.chooser");
  const boxes = chooser ? [...chooser.querySelectorAll("input")] : [];
  const key = "neuronxa " + location.pathname;
  const chosen = () => new Set(boxes.filter((box) => box.checked).map((box) => box.value));

  // What a reader chose stays chosen when a watched page loads itself again.
  function remember() {
    const views = [...document.querySelectorAll(".view select")].map((select) => select.value);
    try { sessionStorage.setItem(key, JSON.stringify({pairs: [...chosen()], views})); } catch { /* it may be forbidden */ }
  }
  function recall() {
    try { return JSON.parse(sessionStorage.getItem(key)); } catch { return null; }
  }

  function visible(chart, trace) {
    const pair = trace.meta ? trace.meta.pair : null;
    if (pair === null || pair === undefined || !chart.dataset.choice) return true;
    if (chart.dataset.choice === "several") return !boxes.length || chosen().has(pair);
    const select = chart.querySelector(".view select");
    return !select || select.value === pair;
  }

  function update(chart) {
    for (const plot of chart.querySelectorAll(".plot")) {
      if (plot.data) Plotly.restyle(plot, {visible: plot.data.map((trace) => visible(chart, trace))});
    }
  }

  function draw(chart) {
    chart.querySelector(".plots").hidden = false;
    for (const plot of chart.querySelectorAll(".plot")) {
      const {data, layout} = JSON.parse(document.getElementById(plot.dataset.plot).textContent);
      for (const trace of data) trace.visible = visible(chart, trace);
      Plotly.newPlot(plot, data, layout, CONFIG);
    }
    chart.querySelector(".pictures").hidden = true;
    const view = chart.querySelector(".view");
    if (view) view.hidden = false;
  }

  function filter() {
    if (!boxes.length) return;
    const pairs = chosen();
    for (const row of document.querySelectorAll("tr[data-pair]")) row.hidden = !pairs.has(row.dataset.pair);
    for (const table of document.querySelectorAll(".table")) {
      table.hidden = ![...table.querySelectorAll("tbody tr")].some((row) => !row.hidden);
    }
  }

  function choose() {
    filter();
    charts.filter((chart) => chart.dataset.choice === "several").forEach(update);
    remember();
  }

  const before = recall();
  if (chooser) {
    chooser.hidden = false;
    boxes.forEach((box, place) => { box.checked = before ? before.pairs.includes(box.value) : place < MOST; });
    chooser.addEventListener("change", choose);
    for (const button of chooser.querySelectorAll("button")) {
      button.addEventListener("click", () => {
        for (const box of boxes) box.checked = button.dataset.set === "all";
        choose();
      });
    }
    filter();
  }
  [...document.querySelectorAll(".view select")].forEach((select, place) => {
    if (before && [...select.options].some((option) => option.value === before.views[place])) select.value = before.views[place];
    select.addEventListener("change", () => { update(select.closest(".chart")); remember(); });
  });

  // One chart after another, so that the page answers meanwhile. A chart that fails keeps its picture.
  (function next(place) {
    if (place === charts.length) { document.documentElement.dataset.drawn = "all"; return; }
    try { draw(charts[place]); } catch (error) {
      console.error(error);
      charts[place].querySelector(".plots").hidden = true;
    }
    setTimeout(next, 0, place + 1);
  })(0);
})();
