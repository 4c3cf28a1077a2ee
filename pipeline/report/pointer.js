// The values of curves at the step that is nearest to the pointer, below the figure.
for (const figure of document.querySelectorAll('figure.curves')) {
  const {boxes, steps, places, curves} = JSON.parse(figure.querySelector('script').textContent);
  const label = figure.querySelector('output'), usual = label.textContent;
  for (const svg of figure.querySelectorAll('svg')) {
    const box = boxes[svg.closest('.for-narrow') ? 1 : 0];
    const line = document.createElementNS('http://www.w3.org/2000/svg', 'line');
    line.setAttribute('stroke', '#888');
    line.setAttribute('y1', box[1]);
    line.setAttribute('y2', box[1] + box[3]);
    line.style.visibility = 'hidden';
    line.style.pointerEvents = 'none';
    svg.append(line);
    const leave = () => { line.style.visibility = 'hidden'; label.textContent = usual; };
    svg.onpointermove = event => {
      const {left, width} = svg.getBoundingClientRect();
      const at = ((event.clientX - left) / width * svg.viewBox.baseVal.width - box[0]) / box[2];
      if (at < -0.03 || at > 1.03) return leave();
      let near = 0;
      places.forEach((place, i) => { if (Math.abs(place - at) < Math.abs(places[near] - at)) near = i; });
      const x = box[0] + places[near] * box[2];
      line.setAttribute('x1', x);
      line.setAttribute('x2', x);
      line.style.visibility = 'visible';
      label.textContent = 'step ' + steps[near].toLocaleString('en') + Object.entries(curves)
        .filter(([, values]) => values[near] !== null).map(([name, values]) => '\u2002' + name + ' ' + values[near]).join('');
    };
    svg.onpointerleave = leave;
  }
}
