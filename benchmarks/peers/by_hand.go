// SPDX-License-Identifier: Apache-2.0

// A worker as one writes it by hand in Go: BRPOPLPUSH and LREM, one connection and one round trip at a time for
// each of 50 goroutines (100 where the handler waits). The protocol is written out, so that nothing is fetched.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

const (
	queue, taken = "bench", "bench:taken"
	sleep        = 5 * time.Millisecond
	steps        = 40000
	batch        = 100
)

var (
	scenario = os.Getenv("PEERS_SCENARIO")
	handled  *uint64
	burnt    uint64
)

type conn struct {
	in  *bufio.Reader
	out *bufio.Writer
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func dial() *conn {
	where, err := url.Parse(os.Getenv("PEERS_URL"))
	must(err)
	socket, err := net.Dial("tcp", where.Host)
	must(err)
	return &conn{bufio.NewReaderSize(socket, 1<<16), bufio.NewWriterSize(socket, 1<<16)}
}

func (c *conn) write(words ...[]byte) {
	fmt.Fprintf(c.out, "*%d\r\n", len(words))
	for _, word := range words {
		c.out.WriteByte('$')
		c.out.WriteString(strconv.Itoa(len(word)))
		c.out.WriteString("\r\n")
		c.out.Write(word)
		c.out.WriteString("\r\n")
	}
}

// read gives the bulk string of an answer, or nil for a number or a status.
func (c *conn) read() []byte {
	line, err := c.in.ReadString('\n')
	must(err)
	switch line[0] {
	case '-':
		must(fmt.Errorf("%s", line))
	case '$':
		length, err := strconv.Atoi(strings.TrimSpace(line[1:]))
		must(err)
		if length < 0 {
			return nil
		}
		body := make([]byte, length+2)
		_, err = io.ReadFull(c.in, body)
		must(err)
		return body[:length]
	}
	return nil
}

func (c *conn) ask(words ...[]byte) []byte {
	c.write(words...)
	must(c.out.Flush())
	return c.read()
}

func handle(payload map[string]any) {
	switch scenario {
	case "io":
		time.Sleep(sleep)
	case "cpu":
		state := uint64(1)
		for step := 0; step < steps; step++ {
			state = state * 16807 % 2147483647
		}
		atomic.StoreUint64(&burnt, state) // used, so that it is not optimised away
	}
	atomic.AddUint64(handled, 1)
}

func work() {
	path := filepath.Join(os.Getenv("PEERS_COUNTS"), strconv.Itoa(os.Getpid())+".count")
	must(os.WriteFile(path, make([]byte, 8), 0o600))
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	must(err)
	mapped, err := syscall.Mmap(int(file.Fd()), 0, 8, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	must(err)
	handled = (*uint64)(unsafe.Pointer(&mapped[0]))
	workers := 50
	if scenario == "io" {
		workers = 100
	}
	for i := 0; i < workers; i++ {
		go func() {
			c := dial()
			for {
				body := c.ask([]byte("BRPOPLPUSH"), []byte(queue), []byte(taken), []byte("0"))
				var payload map[string]any
				must(json.Unmarshal(body, &payload))
				handle(payload)
				c.ask([]byte("LREM"), []byte(taken), []byte("1"), body)
			}
		}()
	}
	select {}
}

func send() {
	text, err := os.ReadFile(os.Getenv("PEERS_PAYLOAD"))
	must(err)
	var payload map[string]any
	must(json.Unmarshal(text, &payload))
	c := dial()
	fmt.Println("ready")
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		words := strings.Fields(lines.Text())
		count, err := strconv.Atoi(words[1])
		must(err)
		size := 1
		if words[0] == "many" {
			size = batch
		}
		began := time.Now()
		for start := 0; start < count; start += size {
			end := start + size
			if end > count {
				end = count
			}
			for number := start; number < end; number++ {
				payload["number"] = number
				body, err := json.Marshal(payload)
				must(err)
				c.write([]byte("LPUSH"), []byte(queue), body)
			}
			must(c.out.Flush())
			for number := start; number < end; number++ {
				c.read()
			}
		}
		fmt.Println(time.Since(began).Seconds())
	}
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "send" {
		send()
		return
	}
	work()
}
