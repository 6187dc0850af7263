import type { Line } from "./api";

const WIDTH = 22;
const HEIGHT = 26;
const MOST = 400;

/** Agents and their branches as lanes, a step after another; a step goes on from the one that its line comes from. */
export function Lanes({ lines, current, pick }: { lines: Line[]; current: number; pick: (step: number) => void }) {
  const name = (line: Line) => `${line.agent ?? "policy"} · branch ${line.branch ?? 0}`;
  const lanes = [...new Set(lines.map(name))];
  const versions = lines.map((line, at) => at > 0 && line.version !== null && lines[at - 1].version !== null && line.version !== lines[at - 1].version);
  if (lanes.length < 2) return null;
  const first = Math.max(0, Math.min(current - MOST / 2, lines.length - MOST));
  const shown = lines.slice(first, first + MOST);
  const x = (at: number) => (at - first) * WIDTH + WIDTH / 2;
  const y = (line: Line) => lanes.indexOf(name(line)) * HEIGHT + HEIGHT / 2 + 12;
  const width = shown.length * WIDTH;
  const height = lanes.length * HEIGHT + 20;
  return (
    <figure class="lanes">
      <figcaption>agents and branches <span class="dim small">{lanes.length} lanes, {lines.length.toLocaleString("en")} steps</span></figcaption>
      <div class="row-of-lanes">
        <div class="names" style={{ paddingTop: "12px" }}>{lanes.map((lane) => <div style={{ height: `${HEIGHT}px`, lineHeight: `${HEIGHT}px` }}>{lane}</div>)}</div>
        <div class="scroll" tabIndex={0} role="region" aria-label="Lanes">
          <svg width={width} height={height} viewBox={`0 0 ${width} ${height}`} style={{ width: `${width}px`, height: `${height}px` }}>
            {lanes.map((_, at) => <line class="axis" x1="0" x2={width} y1={at * HEIGHT + HEIGHT / 2 + 12} y2={at * HEIGHT + HEIGHT / 2 + 12} />)}
            {shown.map((line, place) => {
              const at = first + place;
              const parent = line.parent;
              if (parent === null || parent < first || !lines[parent]) return null;
              const left = x(parent), right = x(at), top = y(lines[parent]), bottom = y(line);
              return <path class="edge" d={top === bottom ? `M${left} ${top}H${right}` : `M${left} ${top}C${left + WIDTH} ${top} ${right - WIDTH} ${bottom} ${right} ${bottom}`} />;
            })}
            {shown.map((_, place) => versions[first + place] && <g><line class="version" x1={x(first + place) - WIDTH / 2} x2={x(first + place) - WIDTH / 2} y1="0" y2={height} /><text x={x(first + place) - WIDTH / 2 + 2} y="9">v{lines[first + place].version}</text></g>)}
            {shown.map((line, place) => {
              const at = first + place;
              return (
                <g class={`node ${at === current ? "current" : ""} ${line.injected_call ? "bad" : ""}`} role="button" tabindex={0} aria-label={`step ${at}, ${name(line)}`}
                  onClick={() => pick(at)} onKeyDown={(event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); event.stopPropagation(); pick(at); } }}>
                  <title>{`step ${at}: ${line.calls.join(", ") || "answers"}`}</title>
                  <circle cx={x(at)} cy={y(line)} r="8" /><text x={x(at)} y={y(line) + 3} text-anchor="middle">{at}</text>
                </g>
              );
            })}
          </svg>
        </div>
      </div>
    </figure>
  );
}
