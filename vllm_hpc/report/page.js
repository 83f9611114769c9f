"use strict";
(function () {
  const tip = document.getElementById("tip");
  let seen = null;
  function hide() {
    if (seen) seen.classList.remove("seen");
    seen = null;
    tip.style.visibility = "hidden";
  }
  function show(mark, x, y) {
    hide();
    seen = mark;
    mark.classList.add("seen");
    tip.textContent = mark.getAttribute("data-tip");
    tip.style.visibility = "visible";
    const box = tip.getBoundingClientRect();
    tip.style.left = Math.max(4, Math.min(x + 14, innerWidth - box.width - 4)) + "px";
    tip.style.top = (y + 18 + box.height > innerHeight ? Math.max(4, y - box.height - 10) : y + 18) + "px";
  }
  document.addEventListener("pointermove", function (event) {
    const mark = event.target.closest ? event.target.closest("[data-tip]") : null;
    if (mark) show(mark, event.clientX, event.clientY);
    else hide();
  });
  document.addEventListener("focusout", hide);
  addEventListener("scroll", function () { if (!document.activeElement.matches("figure")) hide(); }, true);
  document.addEventListener("keydown", function (event) {
    if (event.key === "Escape") return hide();
    const figure = document.activeElement;
    const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
    if (!figure.matches("figure") || !(event.key in steps || event.key === "Home" || event.key === "End")) return;
    const marks = Array.from(figure.querySelectorAll("[data-tip]"));
    if (!marks.length) return;
    event.preventDefault();
    const last = marks.length - 1, now = marks.indexOf(seen);
    const next = event.key === "Home" ? 0 : event.key === "End" ? last
      : now < 0 ? 0 : Math.max(0, Math.min(last, now + steps[event.key]));
    const box = marks[next].getBoundingClientRect();
    show(marks[next], box.left + box.width / 2, box.top + box.height / 2);
  });
  document.querySelectorAll("button[data-copies]").forEach(function (button) {
    button.hidden = false;
    button.addEventListener("click", function () {
      const text = document.getElementById(button.getAttribute("data-copies"));
      const range = document.createRange();
      range.selectNodeContents(text);
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      button.textContent = document.execCommand("copy") ? "Copied" : "Selected: copy it by its keys";
    });
  });
  // A link leads into a section that may be closed, and a printed page shows all of them.
  function open() {
    const part = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (part && part.matches("details")) part.open = true;
  }
  addEventListener("hashchange", open);
  open();
  addEventListener("beforeprint", function () {
    document.querySelectorAll("details.section").forEach(function (part) { part.open = true; });
  });
})();
