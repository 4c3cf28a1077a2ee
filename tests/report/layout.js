// What is wrong with how a page is laid out: an expression whose value the tests compare with empty lists.
(() => {
  const seen = element => element.checkVisibility({visibilityProperty: true}) && element.getClientRects().length > 0;
  const svgs = [...document.querySelectorAll('svg')].filter(seen);
  const texts = svg => [...svg.querySelectorAll('text')].filter(text => text.textContent.trim() && seen(text))
    .map(text => [text.textContent.trim(), text.getBoundingClientRect()]);
  const meet = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 &&
    Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 0.3 * Math.min(a.height, b.height, a.width, b.width);
  const touching = svgs.flatMap(svg => { const all = texts(svg); return all.flatMap(([one, a], i) =>
    all.slice(i + 1).filter(([, b]) => meet(a, b)).map(([other]) => one + ' / ' + other)); });
  const cut = svgs.flatMap(svg => { const {left, right, top, bottom} = svg.getBoundingClientRect();
    return texts(svg).filter(([, a]) => a.left < left - 2 || a.right > right + 2 || a.top < top - 2 || a.bottom > bottom + 2)
      .map(([text]) => text); });
  const small = svgs.flatMap(svg => texts(svg).filter(([, a]) => Math.min(a.width, a.height) < 7 && a.height < 7)
    .map(([text]) => text));
  const isNarrow = matchMedia('(max-width: 36rem)').matches;  // there sliders and graphs keep a width that can be read
  const sideways = [...document.querySelectorAll(isNarrow ? 'figure.curves > div, .for-narrow' : 'figure .wide')].filter(seen)
    .filter(element => element.scrollWidth > element.clientWidth + 1).map(element => element.textContent.trim().slice(0, 40));
  const root = document.documentElement;
  return {wider: root.scrollWidth - root.clientWidth, touching, cut, small, sideways,
    figures: svgs.length, tables: [...document.querySelectorAll('.wide')].filter(seen)
      .filter(element => element.querySelector('table') && element.scrollWidth > element.clientWidth + 1).length};
})()
