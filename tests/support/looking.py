"""What a browser is asked about a page: is everything drawn, is anything cut off, can it be read."""

from __future__ import annotations

from typing import Any

from tests.support.chromium import Browser

READY = """
(async () => {
  const images = [...document.images];
  images.forEach((image) => { image.loading = "eager"; });
  await Promise.all(images.map((image) => image.decode()));
  return images.length;
})()
"""

MEASURE = """
(() => {
  const width = document.documentElement.clientWidth;
  const shown = (element) => element.getClientRects().length > 0;
  const told = (element) => (element.id || element.className.baseVal || element.className || element.tagName) + ": "
    + element.textContent.trim().slice(0, 40);
  const boxed = (element) => element.closest(".scroll, pre, .skip");
  const plots = [...document.querySelectorAll("svg.plot")];
  const outside = [];
  for (const plot of plots) {
    const box = plot.getBoundingClientRect();
    for (const mark of plot.querySelectorAll("text, image, path, use")) {
      if (mark.closest("defs, clipPath") || mark.closest("[clip-path]")) continue;
      const own = mark.getBoundingClientRect();
      if (own.left < box.left - 1 || own.right > box.right + 1 || own.top < box.top - 1 || own.bottom > box.bottom + 1)
        outside.push(plot.parentElement.id + ": " + mark.textContent.trim());
    }
  }
  const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
  return {
    sideways: document.documentElement.scrollWidth - width,
    wide: [...document.querySelectorAll("body *")].filter((element) => shown(element) && !boxed(element)
      && !element.closest("svg") && element.getBoundingClientRect().right > width + 1).map(told),
    plots: plots.length,
    empty: plots.filter((plot) => {
      const box = plot.getBoundingClientRect();
      return box.width < 200 || box.height < 40 || plot.querySelectorAll("path, image, use").length < 5;
    }).map((plot) => plot.parentElement.id),
    outside: outside,
    silent: [...document.images].filter((image) => !image.alt || !image.naturalWidth).length
      + plots.filter((plot) => plot.getAttribute("role") !== "img" || !plot.querySelector("title").textContent).length,
    headless: [...document.querySelectorAll("table")].filter((table) => !table.querySelector("thead th[scope=col]")
      || !table.querySelector("tbody th[scope=row]")).length,
    twice: ids.filter((id, place) => ids.indexOf(id) !== place),
    nowhere: [...document.querySelectorAll("[aria-labelledby], nav a")].map((element) =>
      element.getAttribute("aria-labelledby") || element.getAttribute("href").slice(1))
      .filter((id) => !document.getElementById(id)),
    boxes: [...document.querySelectorAll(".scroll")].filter((box) =>
      box.scrollWidth > box.clientWidth && getComputedStyle(box).overflowX !== "auto").length,
  };
})()
"""

CONTRAST = """
(() => {
  const light = (colour) => {
    const parts = colour.match(/[0-9.]+/g).map(Number).slice(0, 3).map((part) => part / 255)
      .map((part) => part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
  };
  const behind = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const colour = getComputedStyle(each).backgroundColor;
      if (!/, 0\\)$|transparent/.test(colour)) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const weak = {};
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || !element.getClientRects().length || element.closest("option, select, script")) continue;
    const style = getComputedStyle(element);
    const ink = element.closest("svg") ? style.fill : style.color;
    const [x, y] = [light(ink), light(behind(element))];
    const ratio = (Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05);
    if (ratio < 4.5) weak[element.tagName + "." + (element.className.baseVal ?? element.className) + " " + ink] = ratio;
  }
  return weak;
})()
"""


def look(browser: Browser) -> dict[str, Any]:
    """Measures of the page that is open."""
    images = browser.run(READY)
    found: dict[str, Any] = browser.run(MEASURE)
    return found | {"images": images, "weak": browser.run(CONTRAST)}
