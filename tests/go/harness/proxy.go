package harness

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Proxy stands between a client of PostgreSQL and its server. It understands framing, statements
// and the end of answers, and so can lose, hold and repeat exactly what a test wants to.
//
// A client's messages up to Sync, or one simple query, are a statement; libpq has one of them under
// way per connection. Each is shown to the rule before its bytes go on.
type Proxy struct {
	Port    int
	listen  net.Listener
	backend string
	mu      sync.Mutex
	links   map[*Link]struct{}
	rule    func(*Statement) Fault
	gate    chan struct{} // Closed: bytes flow.
	closed  bool
	counts  map[string]int
	late    sync.WaitGroup
}

// Fault is what happens to one statement.
type Fault struct {
	Kind  FaultKind
	Delay time.Duration // Of Delay and Late.
	// Settled is called when the server has answered a statement whose answer nobody gets (LoseAnswer,
	// Late, HoldSync): how many rows it returned, and its last tag or error.
	Settled func(rows int, outcome string)
}

type FaultKind int

const (
	Pass       FaultKind = iota
	Delay                // Forwarded after a while.
	Stall                // Never forwarded; the connection stays open and silent.
	CutBefore            // The connection ends before the statement arrives.
	LoseAnswer           // The statement is executed, and the connection ends without its answer.
	Late                 // The connection ends at once; the statement arrives after a while.
	HoldSync             // All but the Sync arrives: executed and not ended. The client sees silence.
)

// Statement is what the client is about to send.
type Statement struct {
	Link    *Link
	Name    string // Of the prepared statement; "" for text.
	Text    string // Of a simple query or of a Parse.
	Prepare bool   // Only a Parse: nothing is executed.
	Bytes   int
}

// Is tells whether the statement executes one of these prepared statements, or is a text that begins so.
func (s *Statement) Is(names ...string) bool {
	for _, name := range names {
		if !s.Prepare && (s.Name == name || s.Name == "" && strings.HasPrefix(s.Text, name)) {
			return true
		}
	}
	return false
}

// insertsEntry tells whether the statement is one that inserts an entry of drover's log; behind a
// pooler statements have no names.
func (s *Statement) insertsEntry() bool {
	return s.Is("append", "append_leases") ||
		!s.Prepare && s.Name == "" && strings.Contains(s.Text, " e AS (INSERT INTO ")
}

// Appends tells whether the statement may commit an entry of drover's log: the one-shot append, or
// the COMMIT of a transaction that holds one.
func (s *Statement) Appends() bool {
	if s.Prepare {
		return false
	}
	if s.Name == "" && strings.HasPrefix(s.Text, "COMMIT") {
		return s.Link.appending && s.Link.inTxn
	}
	return s.insertsEntry() && !s.Link.inTxn
}

// Link is one client connection with its own one to the server.
type Link struct {
	Seen      map[string]bool // Names of the statements executed on it, and "LISTEN".
	proxy     *Proxy
	client    net.Conn
	server    net.Conn
	inTxn     bool // Between BEGIN and COMMIT.
	appending bool // An append was sent in this transaction.
	mute      atomic.Bool
	once      sync.Once
	settled   atomic.Pointer[Fault]
}

// StartProxy listens on a loopback port in front of |p|.
func (p *Postgres) StartProxy() (*Proxy, error) { return StartProxyTo(p.Port) }

// StartProxyTo listens in front of whatever speaks PostgreSQL's protocol on |port|.
func StartProxyTo(port int) (*Proxy, error) {
	listen, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	x := &Proxy{Port: listen.Addr().(*net.TCPAddr).Port, listen: listen,
		backend: fmt.Sprintf("127.0.0.1:%d", port), links: map[*Link]struct{}{},
		gate: make(chan struct{}), counts: map[string]int{}}
	close(x.gate)
	go x.accept()
	return x, nil
}

// URL is the datastore URL of a database behind the proxy.
func (x *Proxy) URL(database string) string {
	return fmt.Sprintf("postgres://drover@127.0.0.1:%d/%s", x.Port, database)
}

// SetRule makes |rule| judge every later statement; nil passes all. It runs on many goroutines.
func (x *Proxy) SetRule(rule func(*Statement) Fault) {
	x.mu.Lock()
	x.rule = rule
	x.mu.Unlock()
}

// Stall stops all bytes in both directions, of old and new connections, and cuts none.
func (x *Proxy) Stall() {
	x.mu.Lock()
	defer x.mu.Unlock()
	select {
	case <-x.gate:
		x.gate = make(chan struct{})
	default:
	}
}

// Resume lets them flow again.
func (x *Proxy) Resume() {
	x.mu.Lock()
	defer x.mu.Unlock()
	select {
	case <-x.gate:
	default:
		close(x.gate)
	}
}

// Cut ends every connection that |which| names; nil: all. Returns how many.
func (x *Proxy) Cut(which func(*Link) bool) int {
	x.mu.Lock()
	var cut []*Link
	for l := range x.links {
		if which == nil || which(l) {
			cut = append(cut, l)
		}
	}
	x.mu.Unlock()
	for _, l := range cut {
		l.close()
	}
	return len(cut)
}

// Count is how often a fault or statement of this name came by.
func (x *Proxy) Count(name string) int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.counts[name]
}

// Listens tells whether a link of the proxy is one that LISTENs.
func (x *Proxy) Listens() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	for l := range x.links {
		if l.Seen["LISTEN"] {
			return true
		}
	}
	return false
}

// Close ends everything and waits for statements that are still to be delivered late.
func (x *Proxy) Close() {
	x.Resume()
	x.mu.Lock()
	x.closed = true
	x.mu.Unlock()
	_ = x.listen.Close()
	x.Cut(nil)
	x.late.Wait()
}

func (x *Proxy) accept() {
	for {
		client, err := x.listen.Accept()
		if err != nil {
			return
		}
		go x.serve(client)
	}
}

func (x *Proxy) pass() {
	x.mu.Lock()
	gate := x.gate
	x.mu.Unlock()
	<-gate
}

// serve begins a link: the start-up packet has no type, and requests for TLS are declined.
func (x *Proxy) serve(client net.Conn) {
	x.pass()
	var startup []byte
	for {
		head := make([]byte, 8)
		if _, err := io.ReadFull(client, head); err != nil {
			client.Close()
			return
		}
		size := binary.BigEndian.Uint32(head)
		code := binary.BigEndian.Uint32(head[4:])
		if code == 80877103 || code == 80877104 { // SSLRequest, GSSENCRequest.
			_, _ = client.Write([]byte{'N'})
			continue
		}
		startup = make([]byte, size)
		copy(startup, head)
		if _, err := io.ReadFull(client, startup[8:]); err != nil {
			client.Close()
			return
		}
		break
	}
	server, err := net.Dial("tcp", x.backend)
	if err != nil {
		client.Close()
		return
	}
	l := &Link{proxy: x, client: client, server: server, Seen: map[string]bool{}}
	x.mu.Lock()
	closed := x.closed
	x.links[l] = struct{}{}
	x.counts["links"]++
	x.mu.Unlock()
	if closed {
		l.close()
		return
	}
	if _, err := server.Write(startup); err != nil {
		l.close()
		return
	}
	go l.fromServer()
	l.fromClient()
}

func (l *Link) close() {
	l.once.Do(func() {
		l.client.Close()
		l.server.Close()
		l.proxy.mu.Lock()
		delete(l.proxy.links, l)
		l.proxy.mu.Unlock()
	})
}

// readMessage returns one whole message with its type and length.
func readMessage(r io.Reader) ([]byte, error) {
	head := make([]byte, 5)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(head[1:])
	if size < 4 || size > 1<<30 {
		return nil, errors.New("bad message")
	}
	message := make([]byte, size+1)
	copy(message, head)
	_, err := io.ReadFull(r, message[5:])
	return message, err
}

// note reads one message of a statement.
func (s *Statement) note(message []byte) {
	body := message[5:]
	s.Bytes += len(message)
	switch message[0] {
	case 'Q':
		s.Text = cString(body)
	case 'P':
		s.Name = cString(body)
		s.Text = cString(body[len(s.Name)+1:])
		s.Prepare = true
	case 'B':
		portal := cString(body)
		s.Name = cString(body[len(portal)+1:])
		s.Prepare = false
	}
}

func cString(b []byte) string {
	if end := bytes.IndexByte(b, 0); end >= 0 {
		return string(b[:end])
	}
	return string(b)
}

func (l *Link) fromClient() {
	defer func() {
		if !l.mute.Load() { // Else the server still owes an answer.
			l.close()
		}
	}()
	var group []byte
	s := &Statement{Link: l}
	for {
		message, err := readMessage(l.client)
		if err != nil {
			return
		}
		group = append(group, message...)
		s.note(message)
		switch message[0] {
		case 'P', 'B', 'D', 'E', 'C', 'H':
			continue
		}
		l.proxy.pass()
		if !l.forward(s, group, len(message)) {
			return
		}
		group = nil
		s = &Statement{Link: l}
	}
}

func (l *Link) judge(s *Statement) Fault {
	x := l.proxy
	x.mu.Lock()
	defer x.mu.Unlock()
	var fault Fault
	if s.Name == "" && s.Text == "" { // Passwords, Terminate.
		return fault
	}
	if x.rule != nil {
		fault = x.rule(s)
	}
	name := s.Name
	if name == "" {
		name, _, _ = strings.Cut(s.Text, " ")
	}
	if !s.Prepare {
		x.counts[name]++
		l.Seen[name] = true
	}
	if fault.Kind == Pass && strings.Contains(s.Text, "LISTEN ") {
		l.Seen["LISTEN"] = true
	}
	if fault.Kind != Pass {
		x.counts["faults"]++
	}
	switch {
	case strings.HasPrefix(s.Text, "BEGIN"):
		l.inTxn, l.appending = !strings.HasSuffix(s.Text, "COMMIT"), false // Not "READ COMMITTED".
	case strings.HasPrefix(s.Text, "COMMIT"), strings.HasPrefix(s.Text, "ROLLBACK"):
		l.inTxn, l.appending = false, false
	case s.insertsEntry():
		l.appending = l.inTxn
	}
	return fault
}

// forward sends the statement on as its fault says; false: the link's client side is through.
func (l *Link) forward(s *Statement, group []byte, lastSize int) bool {
	fault := l.judge(s)
	switch fault.Kind {
	case Pass:
	case Delay:
		time.Sleep(fault.Delay)
	case Stall:
		_, _ = io.Copy(io.Discard, l.client)
		return false
	case CutBefore:
		return false
	case LoseAnswer:
		l.settled.Store(&fault)
		l.mute.Store(true)
	case Late:
		l.settled.Store(&fault)
		l.mute.Store(true)
		l.proxy.late.Add(1)
		l.client.Close()
		go func() {
			defer l.proxy.late.Done()
			time.Sleep(fault.Delay)
			_, _ = l.server.Write(group)
		}()
		return false
	case HoldSync:
		group = group[:len(group)-lastSize]
		_, _ = l.server.Write(group)
		_, _ = io.Copy(io.Discard, l.client)
		return false
	}
	_, err := l.server.Write(group)
	return err == nil
}

// fromServer passes answers on. A muted link swallows them up to the next end of a statement.
func (l *Link) fromServer() {
	defer l.close()
	rows, outcome := 0, ""
	for {
		message, err := readMessage(l.server)
		if err != nil {
			l.finish(0, err.Error())
			return
		}
		l.proxy.pass()
		if !l.mute.Load() {
			if _, err := l.client.Write(message); err != nil && !l.mute.Load() {
				return
			}
			continue
		}
		switch message[0] {
		case 'D':
			rows++
		case 'C':
			outcome = cString(message[5:])
		case 'E':
			outcome = "ERROR " + errorCode(message[5:])
		case 'Z':
			l.finish(rows, outcome)
			return
		}
	}
}

func (l *Link) finish(rows int, outcome string) {
	if fault := l.settled.Swap(nil); fault != nil && fault.Settled != nil {
		fault.Settled(rows, outcome)
	}
}

func errorCode(fields []byte) string {
	for len(fields) > 1 {
		text := cString(fields[1:])
		if fields[0] == 'C' {
			return text
		}
		fields = fields[min(len(fields), len(text)+2):]
	}
	return "?"
}
