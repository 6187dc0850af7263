import type { VNode } from "preact";
import { useState } from "preact/hooks";
import { useAnswer, Waiting } from "./load";
import { Plain } from "./text";

interface Node {
  same?: unknown; added?: unknown; removed?: unknown; from?: unknown; to?: unknown;
  object?: [string, Node][]; array?: [number, Node][];
}
const MOST_CHILDREN = 200;

function isFolder(value: unknown): value is object {
  return typeof value === "object" && value !== null && Object.keys(value).length > 0;
}

function Leaf({ value }: { value: unknown }) {
  const text = typeof value === "string" ? value : JSON.stringify(value);
  const shown = text.length > 2000 ? `${text.slice(0, 2000)}… (${text.length.toLocaleString("en")} characters)` : text;
  return <span class={typeof value === "string" ? "leaf word" : "leaf"} dir="auto"><Plain text={shown} /></span>;
}

function count(value: object): string {
  const size = Object.keys(value).length;
  return Array.isArray(value) ? `[${size}]` : `{${size}}`;
}

function Value({ name, value, kind }: { name: string; value: unknown; kind: string }) {
  if (!isFolder(value)) {
    return <div class={`entry ${kind}`}><span class="sign">{sign(kind)}</span><span class="key"><Plain text={name} /></span> <Leaf value={value} /></div>;
  }
  const make = () => Object.entries(value).map(([key, child]) => () => <Value name={key} value={child} kind={kind} />);
  return <Folder title={<><span class="sign">{sign(kind)}</span><span class="key"><Plain text={name} /></span> <span class="dim">{count(value)}</span></>}
    kind={kind} open={kind === "added" || kind === "removed"} make={make} />;
}

function sign(kind: string): string {
  return { added: "+", removed: "−", changed: "~" }[kind] ?? "";
}

function Folder({ title, kind, open, make }: { title: VNode; kind: string; open: boolean; make: () => (() => VNode)[] }) {
  const [isOpen, setOpen] = useState(open);
  const [most, setMost] = useState(MOST_CHILDREN);
  const children = isOpen ? make() : [];
  return (
    <details class={kind} open={isOpen} onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary>{title}</summary>
      {children.slice(0, most).map((child) => child())}
      {children.length > most && <button onClick={() => setMost(most + 1000)}>{children.length - most} more</button>}
    </details>
  );
}

function Branch({ name, node }: { name: string; node: Node }) {
  if ("same" in node) return <Value name={name} value={node.same} kind="same" />;
  if ("added" in node) return <Value name={name} value={node.added} kind="added" />;
  if ("removed" in node) return <Value name={name} value={node.removed} kind="removed" />;
  const children = node.object ?? node.array;
  if (!children) {
    return (
      <div class="entry changed">
        <span class="sign">~</span><span class="key"><Plain text={name} /></span>{" "}
        <del><Leaf value={node.from} /></del> <ins><Leaf value={node.to} /></ins>
      </div>
    );
  }
  const changed = children.filter(([, child]) => !("same" in child));
  const rest = children.filter(([, child]) => "same" in child);
  // What changed comes first: it would else be far down a long list.
  const ordered: [string | number, Node][] = children.length > 12 ? [...changed, ...rest] : children;
  return <Folder open kind="touched" title={<><span class="key"><Plain text={name} /></span> <span class="dim">{changed.length} changed</span></>}
    make={() => ordered.map(([key, child]) => () => <Branch name={String(key)} node={child} />)} />;
}

/** The environment's state after a step, as a tree in which what the step changed is marked. */
export function State({ run, episode, step }: { run: string; episode: string; step: number }) {
  const answer = useAnswer<{ step: number; tree: Node }>(`runs/${run}/episodes/${episode}/state?step=${step}`);
  const tree = answer.value?.tree;
  const children = tree?.object ?? tree?.array;
  return (
    <div class="state" aria-busy={answer.stale}>
      <Waiting of={answer}>
        {tree && "same" in tree && <p class="dim small">{step < 0 ? "As the suite has it." : "This step changed nothing."}</p>}
        {tree && "same" in tree && isFolder(tree.same) && Object.entries(tree.same).map(([key, child]) => <Value key={`${step}${key}`} name={key} value={child} kind="same" />)}
        {children?.map(([key, child]) => <Branch key={`${step}${key}`} name={String(key)} node={child} />)}
        {tree && !("same" in tree) && !children && <Branch name="state" node={tree} />}
      </Waiting>
    </div>
  );
}
