// Texts whose contrast with what is behind them is below 4.5, the least that WCAG 2 allows (AA), with the ratio.
(() => {
  const parsed = colour => (colour.match(/[\d.]+/g) || [0, 0, 0, 0]).map(Number);
  const turned = ([r, g, b]) => {  // as invert(1) hue-rotate(180deg) do
    const [x, y, z] = [255 - r, 255 - g, 255 - b];
    return [-0.574 * x + 1.43 * y + 0.144 * z, 0.426 * x + 0.43 * y + 0.144 * z, 0.426 * x + 1.43 * y - 0.856 * z]
      .map(value => Math.min(255, Math.max(0, value)));
  };
  const isTurned = element => { for (let each = element; each; each = each.parentElement)
    if (getComputedStyle(each).filter.includes('invert')) return true; return false; };
  const light = colour => { const [r, g, b] = colour.map(value => { const part = value / 255;
    return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const over = (front, share, back) => front.map((value, i) => share * value + (1 - share) * back[i]);
  const behind = element => { for (let each = element; each; each = each.parentElement) {
    const [r, g, b, a = 1] = parsed(getComputedStyle(each).backgroundColor); if (a > 0.5) return [r, g, b]; }
    return [255, 255, 255]; };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; node = walker.nextNode();) {
    const element = node.parentElement;
    if (!node.textContent.trim() || element.closest('script,style,title') || !element.checkVisibility()) continue;
    const svg = element.closest('svg'), style = getComputedStyle(element);
    let back = behind(element), front = parsed(svg ? style.fill : style.color).slice(0, 3);
    if (svg) {
      element.scrollIntoView({block: 'center', inline: 'center'});
      const {left, top, width, height} = element.getBoundingClientRect();
      const under = document.elementsFromPoint(left + width / 2, top + height / 2);
      for (const shape of under.slice(under.indexOf(element) + 1).filter(each => svg.contains(each) && each !== svg).reverse()) {
        const look = getComputedStyle(shape);
        if (shape.closest('text') || look.fill === 'none' || !shape.matches('path,rect,polygon')) continue;
        const fill = parsed(look.fill).slice(0, 3);
        back = over(isTurned(svg) ? turned(fill) : fill, Number(look.fillOpacity) * Number(look.opacity), back);
      }
      if (isTurned(svg)) front = turned(front);
    }
    const [low, high] = [light(front), light(back)].sort((a, b) => a - b), ratio = (high + 0.05) / (low + 0.05);
    if (ratio < 4.5) found.push(node.textContent.trim().slice(0, 30) + ' ' + ratio.toFixed(2));
  }
  return [...new Set(found)];
})()
