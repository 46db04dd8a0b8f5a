// Nothing to see: gives plotly the width of the page. Its figure draws itself before it knows how wide it may be, and
// measures again only when the window's size changes.
export default {
  render({ el }) {
    const measure = () => window.dispatchEvent(new Event("resize"));
    let wide = 0;
    const sizes = new ResizeObserver(([entry]) => {
      if (Math.abs(entry.contentRect.width - wide) < 2) return;
      wide = entry.contentRect.width;
      measure();
    });
    el.style.width = "100%";
    sizes.observe(el);
    const timers = [100, 400, 1500].map((delay) => setTimeout(measure, delay));
    return () => { sizes.disconnect(); timers.forEach(clearTimeout); };
  },
};
