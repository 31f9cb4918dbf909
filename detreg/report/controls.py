"""The threshold and the class of the scenes on a page, and the script that obeys them.

The page shows everything without the script; then these controls stay hidden. Names of classes and
files never enter the script: it knows classes by their position, and reads scores from the boxes.
"""

from collections.abc import Mapping
from html import escape

from detreg.report.scene import SCORE_DIGITS

CONTROL_STYLE = """
.controls {
  position: sticky; top: 0; z-index: 1; display: flex; flex-wrap: wrap; gap: 8px 24px;
  align-items: center; margin: 24px 0 0; padding: 10px 14px; background: #fff;
  border: 1px solid #dde1e6; border-radius: 8px; box-shadow: 0 2px 6px #0001
}
.controls label { display: flex; gap: 8px; align-items: center }
.controls input { width: 220px }
.controls output { min-width: 3em; font-variant-numeric: tabular-nums; font-weight: 600 }
"""

SCRIPT = """
(function () {
  var controls = document.getElementById("controls");
  var slider = document.getElementById("threshold");
  var chooser = document.getElementById("class");
  var output = document.getElementById("shown");

  function update() {
    var threshold = Number(slider.value);
    var chosen = chooser.value;
    output.textContent = threshold.toFixed(2);

    document.querySelectorAll(".scene").forEach(function (scene) {
      var found = 0, wrong = 0, missed = 0, ofClass = 0;
      scene.querySelectorAll(".box").forEach(function (box) {
        var isOfClass = chosen === "" || box.dataset.class === chosen;
        var isShown = isOfClass;
        if (box.dataset.score !== undefined) {
          isShown = isOfClass && Number(box.dataset.score) >= threshold;
          if (isShown && box.classList.contains("wrong")) { wrong += 1; }
          else if (isShown) { found += 1; }
        } else {
          var score = Number(box.dataset.found);
          var isMissed = score === 0 || score < threshold;
          box.classList.toggle("missed", isMissed);
          if (isMissed && isOfClass) { missed += 1; }
        }
        if (isOfClass) { ofClass += 1; }
        box.setAttribute("display", isShown ? "inline" : "none");
      });
      scene.hidden = chosen !== "" && ofClass === 0;
      var counts = scene.querySelector("figcaption b");
      if (counts) {
        counts.textContent = found + " found, " + wrong + " wrong, " + missed + " missed";
      }
    });
  }

  slider.addEventListener("input", update);
  chooser.addEventListener("change", update);
  controls.hidden = false;
  update();
})();
"""


def render_controls(threshold: float, class_places: Mapping[str, int]) -> str:
    """Return the controls, hidden until the script shows them."""
    options = '<option value="">all classes</option>'
    for name, place in class_places.items():
        options += f'<option value="{place}">{escape(name)}</option>'
    return (
        '<div class="controls" id="controls" hidden>'
        '<label>Detections with a score of at least <input id="threshold" type="range" min="0" '
        f'max="1" step="any" value="{threshold:.{SCORE_DIGITS}f}">'
        '<output id="shown"></output></label>'
        f'<label>Classes <select id="class">{options}</select></label></div>'
    )
