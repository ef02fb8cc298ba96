;; The decoder of LZ4 blocks, whose form src/format/lz4-decode.ts shows. assemble.mjs makes src/format/lz4-decode-module.ts
;; of it.
;;
;; Invariants:
;; - all happens in this module's own memory: hostile bytes can do no more than give wrong bytes, or -1;
;; - lengths are compared with what is left, never added to a place first;
;; - what is short is copied eight bytes at a time, which reads and writes up to seven bytes behind its end: both ranges
;;   have eight bytes of room behind them;
;; - ranges are so short (129 KiB) that a length added up from their bytes fits into 32 bits.
(module
  (memory (export "memory") 5)

  ;; Repeats the $offset bytes before $to, up to $end.
  (func $repeat (param $to i32) (param $offset i32) (param $end i32)
    (local $piece i32) (local $from i32)
    (local.set $from (i32.sub (local.get $to) (local.get $offset)))
    ;; Each round doubles what can be copied at once.
    (loop $round
      (local.set $piece (i32.sub (local.get $to) (local.get $from)))
      (if (i32.gt_u (local.get $piece) (i32.sub (local.get $end) (local.get $to)))
        (then (local.set $piece (i32.sub (local.get $end) (local.get $to)))))
      (memory.copy (local.get $to) (local.get $from) (local.get $piece))
      (local.set $to (i32.add (local.get $to) (local.get $piece)))
      (br_if $round (i32.lt_u (local.get $to) (local.get $end)))))

  ;; Decodes $from … $fromEnd to $dst … $dstEnd, or less of it, but all before $stop. Returns the bytes written; -1: no
  ;; block as far as was looked, or it yields more. A $stop behind $dstEnd is none.
  (func (export "decode")
    (param $from i32) (param $fromEnd i32) (param $dst i32) (param $dstEnd i32) (param $stop i32) (result i32)
    (local $to i32) (local $token i32) (local $length i32) (local $more i32) (local $offset i32)
    (local $at i32) (local $match i32) (local $end i32)
    (local.set $to (local.get $dst))
    (block $done (block $bad
      (loop $sequence
        (br_if $bad (i32.ge_u (local.get $from) (local.get $fromEnd)))
        (local.set $token (i32.load8_u (local.get $from)))
        (local.set $from (i32.add (local.get $from) (i32.const 1)))

        ;; Literals.
        (local.set $length (i32.shr_u (local.get $token) (i32.const 4)))
        (if (i32.eq (local.get $length) (i32.const 15))
          (then
            (loop $add
              (br_if $bad (i32.ge_u (local.get $from) (local.get $fromEnd)))
              (local.set $more (i32.load8_u (local.get $from)))
              (local.set $from (i32.add (local.get $from) (i32.const 1)))
              (local.set $length (i32.add (local.get $length) (local.get $more)))
              (br_if $add (i32.eq (local.get $more) (i32.const 255))))))
        (br_if $bad (i32.gt_u (local.get $length) (i32.sub (local.get $fromEnd) (local.get $from))))
        (br_if $bad (i32.gt_u (local.get $length) (i32.sub (local.get $dstEnd) (local.get $to))))
        (if (local.get $length)
          (then
            (if (i32.le_u (local.get $length) (i32.const 64))
              (then
                (local.set $at (local.get $to))
                (local.set $end (i32.add (local.get $to) (local.get $length)))
                (local.set $match (local.get $from))
                (loop $eight
                  (i64.store (local.get $at) (i64.load (local.get $match)))
                  (local.set $match (i32.add (local.get $match) (i32.const 8)))
                  (local.set $at (i32.add (local.get $at) (i32.const 8)))
                  (br_if $eight (i32.lt_u (local.get $at) (local.get $end)))))
              (else (memory.copy (local.get $to) (local.get $from) (local.get $length))))
            (local.set $from (i32.add (local.get $from) (local.get $length)))
            (local.set $to (i32.add (local.get $to) (local.get $length)))))
        (br_if $done (i32.eq (local.get $from) (local.get $fromEnd)))
        (br_if $done (i32.ge_u (local.get $to) (local.get $stop)))

        ;; Match.
        (br_if $bad (i32.lt_u (i32.sub (local.get $fromEnd) (local.get $from)) (i32.const 2)))
        (local.set $offset (i32.load16_u (local.get $from)))
        (local.set $from (i32.add (local.get $from) (i32.const 2)))
        (br_if $bad (i32.eqz (local.get $offset)))
        (br_if $bad (i32.gt_u (local.get $offset) (i32.sub (local.get $to) (local.get $dst))))
        (local.set $length (i32.and (local.get $token) (i32.const 15)))
        (if (i32.eq (local.get $length) (i32.const 15))
          (then
            (loop $add
              (br_if $bad (i32.ge_u (local.get $from) (local.get $fromEnd)))
              (local.set $more (i32.load8_u (local.get $from)))
              (local.set $from (i32.add (local.get $from) (i32.const 1)))
              (local.set $length (i32.add (local.get $length) (local.get $more)))
              (br_if $add (i32.eq (local.get $more) (i32.const 255))))))
        (local.set $length (i32.add (local.get $length) (i32.const 4)))
        (br_if $bad (i32.gt_u (local.get $length) (i32.sub (local.get $dstEnd) (local.get $to))))
        (local.set $end (i32.add (local.get $to) (local.get $length)))
        ;; Eight bytes at a time, where they are few: if they repeat themselves, each waits for the one before it.
        (if (i32.lt_u (local.get $length) (select (i32.const 65) (i32.const 0) (i32.ge_u (local.get $offset) (i32.const 8))))
          (then
            (local.set $match (i32.sub (local.get $to) (local.get $offset)))
            (loop $eight
              (i64.store (local.get $to) (i64.load (local.get $match)))
              (local.set $match (i32.add (local.get $match) (i32.const 8)))
              (local.set $to (i32.add (local.get $to) (i32.const 8)))
              (br_if $eight (i32.lt_u (local.get $to) (local.get $end)))))
          (else (call $repeat (local.get $to) (local.get $offset) (local.get $end))))
        (local.set $to (local.get $end))
        (br $sequence)))
      (return (i32.const -1)))
    (i32.sub (local.get $to) (local.get $dst))))
