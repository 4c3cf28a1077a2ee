// Values come as whole numbers of hundredths, null where there is none. A cell's colour is its value's opacity.
for (const figure of document.querySelectorAll('.moving')) {
  const {steps, values, signed} = JSON.parse(figure.querySelector('script').textContent);
  const cells = figure.querySelectorAll('rect'), slider = figure.querySelector('input');
  const button = figure.querySelector('button'), label = figure.querySelector('output');
  let timer = null;
  const show = () => {
    const frame = values[slider.value];
    cells.forEach((cell, i) => {
      cell.style.fill = frame[i] === null ? '#8886' : signed && frame[i] > 0 ? '#b2182b' : '#08519c';
      cell.style.fillOpacity = frame[i] === null ? 1 : Math.abs(frame[i]) / 100;
      cell.firstChild.textContent = cell.dataset.at + ': ' + (frame[i] === null ? 'none' : frame[i] / 100);
    });
    label.textContent = 'step ' + steps[slider.value].toLocaleString('en');
  };
  const stop = () => { clearInterval(timer); timer = null; button.textContent = 'play'; };
  button.onclick = () => {
    if (timer) return stop();
    if (+slider.value === steps.length - 1) slider.value = 0;
    button.textContent = 'pause';
    timer = setInterval(() => {
      slider.value = +slider.value + 1;
      show();
      if (+slider.value === steps.length - 1) stop();
    }, Math.max(60, Math.min(500, 8000 / steps.length)));
    show();
  };
  slider.oninput = () => { stop(); show(); };
  show();
}
