// A slider over steps and a button that plays them; show(i) draws the i-th.
const playable = (figure, steps, show) => {
  const slider = figure.querySelector('input'), button = figure.querySelector('button');
  const label = figure.querySelector('output');
  let timer = null;
  const draw = () => {
    show(+slider.value);
    label.textContent = 'step ' + steps[slider.value].toLocaleString('en');
  };
  const stop = () => { clearInterval(timer); timer = null; button.textContent = 'play'; };
  button.onclick = () => {
    if (timer) return stop();
    if (+slider.value === steps.length - 1) slider.value = 0;
    button.textContent = 'pause';
    timer = setInterval(() => {
      slider.value = +slider.value + 1;
      draw();
      if (+slider.value === steps.length - 1) stop();
    }, Math.max(60, Math.min(500, 8000 / steps.length)));
    draw();
  };
  slider.oninput = () => { stop(); draw(); };
  draw();
};
// Values come as whole numbers of hundredths, null where there is none. A cell's colour is its value's opacity.
for (const figure of document.querySelectorAll('.moving')) {
  const {steps, values, signed} = JSON.parse(figure.querySelector('script').textContent);
  const cells = figure.querySelectorAll('rect[data-at]');
  playable(figure, steps, i => cells.forEach((cell, k) => {
    const value = values[i][k];
    cell.style.fill = value === null ? '#8886' : signed && value > 0 ? '#b2182b' : '#08519c';
    cell.style.fillOpacity = value === null ? 1 : Math.abs(value) / 100;
    cell.firstChild.textContent = cell.dataset.at + ': ' + (value === null ? 'none' : value / 100);
  }));
}
// Scores come as whole hundredths of the largest; an edge is as wide as its score, and is not there at 0.
for (const figure of document.querySelectorAll('.graph')) {
  const {steps, scores} = JSON.parse(figure.querySelector('script').textContent);
  const edges = figure.querySelectorAll('path');
  playable(figure, steps, i => edges.forEach((edge, k) => {
    const score = scores[i][k], size = Math.abs(score) / 100;
    edge.style.visibility = score ? 'visible' : 'hidden';
    edge.style.stroke = score < 0 ? '#0072b2' : '#d55e00';
    edge.style.strokeWidth = 0.8 + 5 * size;
    edge.style.strokeOpacity = 0.35 + 0.6 * size;
    edge.firstChild.textContent = edge.dataset.at + ': ' + score / 100;
  }));
}
for (const figure of document.querySelectorAll('.answers')) {
  const {steps, answers} = JSON.parse(figure.querySelector('script').textContent);
  const rows = [...figure.querySelectorAll('tbody tr')];
  playable(figure, steps, i => rows.forEach((row, k) => {
    const [answer, p, right] = answers[i][k], [, , , cell, last] = row.children;
    cell.textContent = (right ? '\u2713 ' : '\u2717 ') + answer;
    cell.className = right ? 'right' : 'wrong';
    last.querySelector('meter').value = p;
    last.querySelector('span').textContent = p.toFixed(3);
  }));
}
