// The page is whole without this script. It adds: values under the pointer (finger, arrow keys), a choice of theme, the place
// in the bar of what is being read, and everything unfolded on paper.
"use strict";

const tip = document.getElementById("tip");

function showTip(text, x, y) {
  tip.textContent = text;
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const left = Math.min(Math.max(x - width / 2, 6), document.documentElement.clientWidth - width - 6);
  const top = y - height - 12 < 6 ? y + 18 : y - height - 12;
  tip.style.transform = `translate(${left}px, ${top}px)`;
}

function hideTip() {
  tip.hidden = true;
}

// Charts: the nearest point, by its place along the axis.
for (const plot of document.querySelectorAll(".plot")) {
  const { x: xs, y: ys, t: texts } = JSON.parse(plot.dataset.hover);
  const area = plot.querySelector(".area");
  const cursor = document.createElement("div");
  const dot = document.createElement("i");
  cursor.className = "cursor";
  cursor.hidden = true;
  cursor.append(dot);
  area.append(cursor);
  plot.querySelectorAll("title").forEach((title) => title.remove()); // else the browser shows its own tip as well
  let at = xs.length - 1;

  function select(index) {
    at = Math.min(Math.max(index, 0), xs.length - 1);
    cursor.hidden = false;
    cursor.style.left = `${100 * xs[at]}%`;
    dot.style.bottom = `${100 * ys[at]}%`;
    const box = area.getBoundingClientRect();
    showTip(texts[at], box.left + xs[at] * box.width, box.bottom - ys[at] * box.height);
  }

  function leave() {
    cursor.hidden = true;
    hideTip();
  }

  function follow(event) {
    const box = area.getBoundingClientRect();
    const place = (event.clientX - box.left) / box.width;
    let nearest = 0;
    for (let index = 1; index < xs.length; index += 1) {
      if (Math.abs(xs[index] - place) < Math.abs(xs[nearest] - place)) nearest = index;
    }
    select(nearest);
  }

  plot.addEventListener("pointermove", follow);
  plot.addEventListener("pointerdown", follow);
  plot.addEventListener("pointerleave", leave);
  plot.addEventListener("blur", leave);
  plot.addEventListener("keydown", (event) => {
    const step = cursor.hidden ? 0 : 1; // the first arrow shows where the cursor is
    const next = { ArrowLeft: at - step, ArrowRight: at + step, Home: 0, End: xs.length - 1 }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    select(next);
  });
}

// Tokens: their titles become tips, which appear at once and under a finger too.
for (const token of document.querySelectorAll(".example [title]")) {
  token.dataset.tip = token.title;
  token.removeAttribute("title");
}

function tipOfToken(event) {
  const token = event.target.closest?.("[data-tip]");
  if (!token) return;
  const box = token.getClientRects()[0];
  showTip(token.dataset.tip, box.left + box.width / 2, box.top);
}

document.addEventListener("pointerover", tipOfToken);
document.addEventListener("pointerdown", tipOfToken);
document.addEventListener("pointerout", (event) => {
  if (event.target.closest?.("[data-tip]")) hideTip();
});
document.addEventListener("scroll", hideTip, { passive: true });

// Theme: as the system has it, or one of the two.
const button = document.getElementById("theme");
const themes = ["auto", "light", "dark"];
let theme = 0;

function setTheme(index) {
  theme = index % themes.length;
  document.documentElement.dataset.theme = themes[theme];
  button.textContent = `Theme: ${themes[theme]}`;
}

button.hidden = false;
button.addEventListener("click", () => setTheme(theme + 1));
setTheme(0);

// The bar marks the section that is being read.
const links = new Map([...document.querySelectorAll("nav.top a")].map((link) => [link.hash.slice(1), link]));
const watcher = new IntersectionObserver(
  (entries) => {
    for (const entry of entries) {
      const link = links.get(entry.target.id);
      if (entry.isIntersecting) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
  },
  { rootMargin: "-30% 0px -69% 0px" },
);
for (const id of links.keys()) watcher.observe(document.getElementById(id));

// Paper: what is folded would be lost.
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
});
