// Command interop drives etcd's own WAL package (go.etcd.io/etcd/wal, 3.4) so
// that the tests can compare seawal with it, in both directions.
//
// Build, with Debian's golang-go and golang-etcd-server-dev:
//
//	GO111MODULE=off GOPATH=/usr/share/gocode GOFLAGS= go build -o OUT .
//
// Commands:
//
//	read   DIR [INDEX TERM]            OpenForRead + ReadAll, full dump
//	open   DIR [INDEX TERM]            Open + ReadAll + Close, dump without entries
//	repair DIR [INDEX TERM]            as open; on an unexpected end Repair, then open again
//	verify DIR [INDEX TERM]            wal.Verify
//	create DIR METADATA N SIZE         Create, save entries 1 to N of term 1
//	append DIR N SIZE [INDEX TERM]     Open + ReadAll, save N more entries
//
// Instead of INDEX TERM (default 0 0) the word latest stands for the last
// valid snapshot record. Options, anywhere on the line:
//
//	--segment-size BYTES   wal.SegmentSizeBytes
//	--conflict K           append: first write the last K entries again, with a term
//	                       one higher, which is then the term of the new ones too
//
// Byte j of entry i is (i*31+j) mod 251. create and append save one entry at a
// time, each with a hard state whose commit is the index of the entry, and
// print the summary of the log that a reader should now find.
//
// Output: JSON lines, in the form of tests/fixtures/etcd (see its README.md).
// Exit code: 0 fine, 1 refused (last line has kind "error"), 2 panicked (last
// line has kind "panic"), 3 wrong use.
package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"go.etcd.io/etcd/raft/raftpb"
	"go.etcd.io/etcd/wal"
	"go.etcd.io/etcd/wal/walpb"
)

// Output lines. The order of the fields is the order in the fixtures.
type (
	positionLine struct {
		Kind  string `json:"kind"` // start, snapshot
		Index uint64 `json:"index"`
		Term  uint64 `json:"term"`
	}
	metadataLine struct {
		Kind    string `json:"kind"`
		Len     int    `json:"len"`
		Present bool   `json:"present"`
		Data    []byte `json:"data"` // base64
	}
	hardStateLine struct {
		Kind   string `json:"kind"`
		Term   uint64 `json:"term"`
		Vote   uint64 `json:"vote"`
		Commit uint64 `json:"commit"`
	}
	entryLine struct {
		Kind   string `json:"kind"`
		Index  uint64 `json:"index"`
		Term   uint64 `json:"term"`
		Type   string `json:"type"`
		Len    int    `json:"len"`
		Sha256 string `json:"sha256"`
	}
	summaryLine struct {
		Kind    string `json:"kind"`
		Entries int    `json:"entries"`
		First   uint64 `json:"first"`
		Last    uint64 `json:"last"`
		Digest  string `json:"digest"`
	}
	errorLine struct {
		Kind  string `json:"kind"` // error, repaired, panic
		Stage string `json:"stage,omitempty"`
		Error string `json:"error"`
	}
	verifiedLine struct {
		Kind string `json:"kind"`
	}
)

var (
	stdout = bufio.NewWriter(os.Stdout)
	lines  = newEncoder(stdout)
)

func newEncoder(w io.Writer) *json.Encoder {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e
}

func emit(line interface{}) {
	if err := lines.Encode(line); err != nil {
		fmt.Fprintln(os.Stderr, "interop:", err)
		os.Exit(3)
	}
}

// refusal is an error of etcd's package, with the step that gave it.
type refusal struct {
	stage string
	err   error
}

func (r *refusal) Error() string { return r.stage + ": " + r.err.Error() }
func (r *refusal) Unwrap() error { return r.err }

func refuse(stage string, err error) error {
	if err == nil {
		return nil
	}
	return &refusal{stage, err}
}

// misuse is a wrong command line.
type misuse string

func (m misuse) Error() string { return string(m) }

func main() {
	code := run(os.Args[1:])
	stdout.Flush()
	os.Exit(code)
}

func run(args []string) (code int) {
	defer func() {
		if p := recover(); p != nil {
			emit(errorLine{Kind: "panic", Error: fmt.Sprint(p)})
			code = 2
		}
	}()
	err := command(args)
	var refused *refusal
	switch {
	case err == nil:
		return 0
	case errors.As(err, &refused):
		emit(errorLine{Kind: "error", Stage: refused.stage, Error: refused.err.Error()})
		return 1
	default:
		fmt.Fprintln(os.Stderr, "interop:", err)
		return 3
	}
}

func command(args []string) error {
	opts, args, err := parseOptions(args)
	if err != nil {
		return err
	}
	if opts.segmentSize > 0 {
		wal.SegmentSizeBytes = int64(opts.segmentSize)
	}
	if len(args) < 2 {
		return misuse("usage: interop read|open|repair|verify|create|append DIR ...")
	}
	name, dir, rest := args[0], args[1], args[2:]

	switch name {
	case "create":
		if len(rest) != 3 {
			return misuse("usage: interop create DIR METADATA N SIZE")
		}
		n, size, err := parseTwo(rest[1], rest[2])
		if err != nil {
			return err
		}
		return create(dir, rest[0], n, int(size))
	case "append":
		if len(rest) < 2 {
			return misuse("usage: interop append DIR N SIZE [INDEX TERM]")
		}
		n, size, err := parseTwo(rest[0], rest[1])
		if err != nil {
			return err
		}
		start, err := parseStart(dir, rest[2:])
		if err != nil {
			return err
		}
		return appendEntries(dir, start, n, int(size), int(opts.conflict))
	}

	start, err := parseStart(dir, rest)
	if err != nil {
		return err
	}
	switch name {
	case "read":
		return read(dir, start)
	case "open":
		return open(dir, start)
	case "repair":
		return repair(dir, start)
	case "verify":
		if err := wal.Verify(nil, dir, start); err != nil {
			return refuse("verify", err)
		}
		emit(verifiedLine{"verified"})
		return nil
	}
	return misuse("unknown command " + name)
}

type options struct {
	segmentSize uint64
	conflict    uint64
}

// parseOptions takes the options out of the arguments.
func parseOptions(args []string) (opts options, rest []string, err error) {
	for i := 0; i < len(args); i++ {
		var to *uint64
		switch args[i] {
		case "--segment-size":
			to = &opts.segmentSize
		case "--conflict":
			to = &opts.conflict
		default:
			rest = append(rest, args[i])
			continue
		}
		if i++; i == len(args) {
			return opts, nil, misuse(args[i-1] + " needs a number")
		}
		if *to, err = strconv.ParseUint(args[i], 10, 62); err != nil {
			return opts, nil, err
		}
	}
	return opts, rest, nil
}

func parseTwo(a, b string) (x, y uint64, err error) {
	if x, err = strconv.ParseUint(a, 10, 64); err != nil {
		return 0, 0, err
	}
	y, err = strconv.ParseUint(b, 10, 64)
	return x, y, err
}

// parseStart reads [INDEX TERM] or latest.
func parseStart(dir string, args []string) (walpb.Snapshot, error) {
	switch {
	case len(args) == 0:
		return walpb.Snapshot{}, nil
	case len(args) == 1 && args[0] == "latest":
		snaps, err := wal.ValidSnapshotEntries(nil, dir)
		if err != nil {
			return walpb.Snapshot{}, refuse("latest-snapshot", err)
		}
		if len(snaps) == 0 {
			return walpb.Snapshot{}, nil
		}
		return snaps[len(snaps)-1], nil
	case len(args) == 2:
		index, term, err := parseTwo(args[0], args[1])
		return walpb.Snapshot{Index: index, Term: term}, err
	}
	return walpb.Snapshot{}, misuse("the start is INDEX TERM, or latest, or nothing")
}

// contents is what ReadAll gives.
type contents struct {
	metadata []byte
	state    raftpb.HardState
	entries  []raftpb.Entry
}

func readAll(w *wal.WAL) (c contents, err error) {
	c.metadata, c.state, c.entries, err = w.ReadAll()
	return c, refuse("readall", err)
}

func read(dir string, start walpb.Snapshot) error {
	w, err := wal.OpenForRead(nil, dir, start)
	if err != nil {
		return refuse("open", err)
	}
	// A log opened for reading has no directory handle, so that Close always
	// returns an error. Nothing depends on it.
	defer w.Close()
	c, err := readAll(w)

	// All valid snapshot records of the directory, not only those from the
	// start on. What is wrong with the log has been said by ReadAll.
	snaps, snapsErr := wal.ValidSnapshotEntries(nil, dir)
	if snapsErr != nil {
		fmt.Fprintln(os.Stderr, "interop: snapshot records:", snapsErr)
	}
	emitHead(start, c)
	for _, s := range snaps {
		emit(positionLine{"snapshot", s.Index, s.Term})
	}
	for _, e := range c.entries {
		sum := sha256.Sum256(e.Data)
		emit(entryLine{"entry", e.Index, e.Term, e.Type.String(), len(e.Data), hex.EncodeToString(sum[:])})
	}
	emitSummary(c.entries)
	return err
}

// openForWrite opens, reads everything, and leaves the log ready for more.
func openForWrite(dir string, start walpb.Snapshot) (*wal.WAL, contents, error) {
	w, err := wal.Open(nil, dir, start)
	if err != nil {
		return nil, contents{}, refuse("open", err)
	}
	c, err := readAll(w)
	if err != nil {
		w.Close()
		return nil, c, err
	}
	return w, c, nil
}

func open(dir string, start walpb.Snapshot) error {
	w, c, err := openForWrite(dir, start)
	return finishOpen(start, w, c, err)
}

// repair does what etcd's server does at its start.
func repair(dir string, start walpb.Snapshot) error {
	w, c, err := openForWrite(dir, start)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		cause := errors.Unwrap(err)
		if !wal.Repair(nil, dir) {
			return refuse("repair", cause)
		}
		emit(errorLine{Kind: "repaired", Error: cause.Error()})
		w, c, err = openForWrite(dir, start)
	}
	return finishOpen(start, w, c, err)
}

func finishOpen(start walpb.Snapshot, w *wal.WAL, c contents, err error) error {
	var refused *refusal
	if errors.As(err, &refused) && refused.stage == "open" {
		return err
	}
	emitHead(start, c)
	emitSummary(c.entries)
	if err != nil {
		return err
	}
	return refuse("close", w.Close())
}

func create(dir, metadata string, n uint64, size int) error {
	w, err := wal.Create(nil, dir, []byte(metadata))
	if err != nil {
		return refuse("create", err)
	}
	c := contents{metadata: []byte(metadata)}
	for i := uint64(1); i <= n; i++ {
		if err := c.save(w, i, 1, size); err != nil {
			return err
		}
	}
	return finishOpen(walpb.Snapshot{}, w, c, nil)
}

func appendEntries(dir string, start walpb.Snapshot, n uint64, size, conflict int) error {
	w, c, err := openForWrite(dir, start)
	if err != nil {
		return err
	}
	last, term := start.Index, start.Term
	if k := len(c.entries); k > 0 {
		last, term = c.entries[k-1].Index, c.entries[k-1].Term
	}
	if term == 0 {
		term = 1
	}
	if conflict > len(c.entries) {
		w.Close()
		return misuse("--conflict: there are not so many entries")
	}
	first := last + 1
	if conflict > 0 {
		first -= uint64(conflict)
		term++
		c.entries = c.entries[:len(c.entries)-conflict]
	}
	for i := first; i <= last+n; i++ {
		if err := c.save(w, i, term, size); err != nil {
			return err
		}
	}
	return finishOpen(start, w, c, nil)
}

// save appends one entry to the log and to the contents.
func (c *contents) save(w *wal.WAL, index, term uint64, size int) error {
	data := make([]byte, size)
	for j := range data {
		data[j] = byte((index*31 + uint64(j)) % 251)
	}
	entry := raftpb.Entry{Type: raftpb.EntryNormal, Term: term, Index: index, Data: data}
	state := raftpb.HardState{Term: term, Vote: c.state.Vote, Commit: index}
	if state.Vote == 0 {
		state.Vote = 1
	}
	if state.Term < c.state.Term {
		state.Term = c.state.Term // a vote may have raised it above the last entry's
	}
	if err := w.Save(state, []raftpb.Entry{entry}); err != nil {
		return refuse("save", err)
	}
	c.state = state
	c.entries = append(c.entries, entry)
	return nil
}

func emitHead(start walpb.Snapshot, c contents) {
	emit(positionLine{"start", start.Index, start.Term})
	data := c.metadata
	if data == nil {
		data = []byte{} // "" and not null
	}
	emit(metadataLine{"metadata", len(c.metadata), c.metadata != nil, data})
	emit(hardStateLine{"hardstate", c.state.Term, c.state.Vote, c.state.Commit})
}

func emitSummary(entries []raftpb.Entry) {
	line := summaryLine{Kind: "summary", Entries: len(entries)}
	if len(entries) > 0 {
		line.First, line.Last = entries[0].Index, entries[len(entries)-1].Index
	}
	digest := sha256.New()
	for _, e := range entries {
		fmt.Fprintf(digest, "%d %d %d %d ", e.Index, e.Term, e.Type, len(e.Data))
		digest.Write(e.Data)
	}
	line.Digest = hex.EncodeToString(digest.Sum(nil))
	emit(line)
}
