import type { ComponentChildren } from "preact";

import type { Cell, Histogram, Mean } from "./api";
import { label, number, seconds } from "./format";

/** Bars of how many episodes have which value. */
export function Bars({ title, data, unit }: { title: string; data: Histogram | null; unit?: "s" }) {
  if (!data || !data.counts.length) return null;
  const most = Math.max(...data.counts);
  const write = unit === "s" ? seconds : number;
  const width = 320 / data.counts.length;
  const last = data.edges[data.edges.length - 1];
  return (
    <figure>
      <figcaption>{title}</figcaption>
      <svg viewBox="0 0 320 116" role="img" aria-label={`${title}: ${data.counts.length} bars`}>
        {data.counts.map((count, at) => {
          const height = count ? Math.max(2, (84 * count) / most) : 0;
          const range = data.edges.length > data.counts.length ? `${write(data.edges[at])} to ${write(data.edges[at + 1])}` : write(data.edges[at]);
          const bar = Math.max(1, Math.min(60, width - 2));
          const middle = (at + 0.5) * width;
          return <g><rect class="fill" x={middle - bar / 2} y={98 - height} width={bar} height={height}><title>{range}: {count}</title></rect>
            {data.counts.length <= 8 && <text x={middle} y={94 - height} text-anchor="middle">{count}</text>}
            {data.counts.length <= 8 && <text x={middle} y={112} text-anchor="middle">{write(data.edges[at])}</text>}</g>;
        })}
        {data.counts.length > 8 && <><text x="0" y="112">{write(data.edges[0])}</text><text x="320" y="112" text-anchor="end">{write(last)}</text><text x="320" y="10" text-anchor="end">{most}</text></>}
      </svg>
    </figure>
  );
}

interface IntervalsProps {
  title: string;
  rows: [string, Mean][];
  onPick?: (name: string) => void;
  /** Whether the rows are different quantities, each drawn from 0 to 1, or to where its interval ends. */
  mixed?: boolean;
  choice?: ComponentChildren;
}

/** Means with their 95 % intervals. */
export function Intervals({ title, rows, onPick, mixed, choice }: IntervalsProps) {
  if (!rows.length) return null;
  const spans = (means: Mean[]) => [Math.min(0, ...means.map((mean) => mean.low)), Math.max(1, ...means.map((mean) => mean.high))];
  const common = spans(rows.map(([, mean]) => mean));
  return (
    <figure class="intervals">
      <figcaption>{title} <span class="dim small">mean, 95 % interval{mixed && "; each on a scale of its own"}</span>{choice}</figcaption>
      {rows.map(([name, mean]) => {
        const [bottom, top] = mixed ? spans([mean]) : common;
        const x = (value: number) => (100 * (value - bottom)) / (top - bottom);
        return <div class="interval" title={`${number(mean.value)}, 95 % interval ${number(mean.low)} to ${number(mean.high)}, ${mean.episodes} episodes`}>
          {onPick ? <button class="plain" onClick={() => onPick(name)}>{label(name)}</button> : <span>{label(name)}</span>}
          <span class="track"><i class="range" style={{ left: `${x(mean.low)}%`, width: `${Math.max(0.5, x(mean.high) - x(mean.low))}%` }} /><i class="point" style={{ left: `${x(mean.value)}%` }} /></span>
          <span class="number">{number(mean.value)} <span class="dim small">[{number(mean.low, 2)}, {number(mean.high, 2)}] n={mean.episodes}</span></span>
        </div>;
      })}
    </figure>
  );
}

/** User tasks by injection tasks: how often something came true. */
export function Heat({ name, cells, onPick }: { name: string; cells: Cell[]; onPick: (cell: Cell) => void }) {
  if (!cells.length) return null;
  const natural = (one: string, other: string) => one.localeCompare(other, "en", { numeric: true });
  const suites = [...new Set(cells.map((one) => one.suite))].sort(natural);
  return (
    <figure>
      <figcaption>{label(name)} by user task and injection task</figcaption>
      {suites.map((suite) => {
        const own = cells.filter((one) => one.suite === suite);
        const rows = [...new Set(own.map((one) => one.user_task))].sort(natural);
        const columns = [...new Set(own.map((one) => one.injection_task))].sort(natural);
        const found = new Map(own.map((one) => [`${one.user_task} ${one.injection_task}`, one]));
        return (
          <div class="scroll"><table class="heat"><caption>{suite}</caption>
            <thead><tr><th />{columns.map((column) => <th title={column}>{column.replace("injection_task_", "i")}</th>)}</tr></thead>
            <tbody>{rows.map((row) => <tr><th title={row}>{row.replace("user_task_", "u")}</th>{columns.map((column) => {
              const one = found.get(`${row} ${column}`);
              if (!one) return <td />;
              return <td><button onClick={() => onPick(one)} class={name === "attack_success" ? "bad" : "fine"} style={{ "--share": String(one.value) }}
                title={`${suite}, ${row}, ${column}: ${number(one.value)} of ${one.episodes} episodes`}>{number(one.value, 2)}</button></td>;
            })}</tr>)}</tbody></table></div>
        );
      })}
    </figure>
  );
}

/** Values over time, each line on the same axis. */
export function Lines({ title, rows, x, lines, write = seconds }: { write?: (value: number) => string; title: string; rows: Record<string, unknown>[]; x: (row: Record<string, unknown>) => number; lines: [string, (row: Record<string, unknown>) => number | null][] }) {
  const drawn = lines.map(([name, value]) => [name, rows.map((row) => [x(row), value(row)]).filter((point): point is [number, number] => typeof point[1] === "number" && Number.isFinite(point[1]))] as const).filter(([, points]) => points.length > 1);
  if (!drawn.length) return null;
  const points = drawn.flatMap(([, own]) => own);
  const left = Math.min(...points.map(([at]) => at));
  const right = Math.max(...points.map(([at]) => at)) || 1;
  const top = Math.max(...points.map(([, value]) => value)) || 1;
  const place = ([at, value]: [number, number]) => `${((320 * (at - left)) / (right - left || 1)).toFixed(1)},${(98 - (84 * value) / top).toFixed(1)}`;
  return (
    <figure>
      <figcaption>{title}</figcaption>
      <svg viewBox="0 0 320 116" role="img" aria-label={`${title} over time, up to ${number(top)}`}>
        <line x1="0" x2="320" y1="98" y2="98" class="axis" />
        {drawn.map(([, own], at) => <polyline class={`line line${at}`} points={own.map(place).join(" ")} />)}
        <text x="0" y="10">{number(top)}</text><text x="0" y="112">{write(left)}</text><text x="320" y="112" text-anchor="end">{write(right)}</text>
      </svg>
      <div class="legend small">{drawn.map(([name], at) => <span><i class={`dot line${at}`} /> {name}</span>)}</div>
    </figure>
  );
}
