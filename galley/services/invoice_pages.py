"""Invoices for spreadsheets and for paper."""

import csv
from html import escape
from io import StringIO
from string import Template

from galley.schemas.money import InvoiceLine, InvoiceReply

_COLUMNS = (
    "model", "endpoint", "requests", "prompt_tokens", "completion_tokens", "units", "cost", "amount"
)  # fmt: skip

_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Invoice $month</title>
<style>
body { font: 11pt/1.5 system-ui, sans-serif; color: #1a1a1a; max-width: 60rem; margin: 3rem auto;
  padding: 0 1.5rem; }
h1 { font-size: 1.6rem; margin: 0; }
p { margin: 0.2rem 0; color: #555; }
.draft { color: #a33; }
table { width: 100%; border-collapse: collapse; margin-top: 2rem; }
th, td { text-align: right; padding: 0.4rem 0.6rem; border-bottom: 1px solid #ddd;
  font-variant-numeric: tabular-nums; }
th:nth-child(-n+2), td:nth-child(-n+2) { text-align: left; overflow-wrap: anywhere; }
thead { display: table-header-group; }
tr { break-inside: avoid; }
tfoot td { border-bottom: none; border-top: 2px solid #1a1a1a; font-weight: 600; }
tfoot td:last-child { text-align: right; }
@page { margin: 18mm; }
@media print { body { margin: 0; max-width: none; padding: 0; } }
</style>
</head>
<body>
<h1>Invoice $month</h1>
<p>$name &lt;$email&gt;</p>
<p>Account $user_id</p>
$draft<table>
<thead><tr><th>Model</th><th>Endpoint</th><th>Requests</th><th>Prompt tokens</th>
<th>Answer tokens</th><th>Pictures, texts</th><th>US$$</th></tr></thead>
<tbody>
$lines</tbody>
<tfoot><tr><td colspan="6">Total</td><td>$total</td></tr>
$credit</tfoot>
</table>
</body>
</html>
""")

_CREDIT = Template("""<tr><td colspan="6">Paid from credit</td><td>$paid</td></tr>
<tr><td colspan="6">Due</td><td>$due</td></tr>
""")

_DRAFT = '<p class="draft">Not final: the month is still running.</p>\n'


def to_csv(invoice: InvoiceReply) -> str:
    """Write one row per line of the invoice, with the month in front and names on top.

    Who has credit finds what was paid from it, and what is due, in two rows at the end.

    Source: RFC 4180.
    """
    text = StringIO()
    writer = csv.writer(text)
    writer.writerow(("month", "final", *_COLUMNS))
    front = (invoice.month, "yes" if invoice.final else "no")
    for line in invoice.lines:
        writer.writerow((*front, *(getattr(line, name) for name in _COLUMNS)))
    if invoice.paid is not None:
        blank = ("",) * (len(_COLUMNS) - 3)
        paid = f"-{invoice.paid_amount}" if invoice.paid else invoice.paid_amount
        writer.writerow((*front, "paid from credit", *blank, -invoice.paid, paid))
        writer.writerow((*front, "due", *blank, invoice.due, invoice.due_amount))
    return text.getvalue()


def to_html(invoice: InvoiceReply) -> str:
    """Write a page that prints well and loads nothing."""
    return _PAGE.substitute(
        month=escape(invoice.month),
        name=escape(invoice.name),
        email=escape(invoice.email),
        user_id=escape(invoice.user_id),
        draft="" if invoice.final else _DRAFT,
        lines="".join(map(_row, invoice.lines)),
        total=escape(invoice.total),
        credit="" if invoice.paid_amount is None else _credit(invoice),
    )


def _credit(invoice: InvoiceReply) -> str:
    return _CREDIT.substitute(paid=invoice.paid_amount, due=invoice.due_amount)


def _row(line: InvoiceLine) -> str:
    amounts = (line.requests, line.prompt_tokens, line.completion_tokens, line.units)
    cells = (line.model or "-", line.endpoint, *(f"{n:,}" for n in amounts), line.amount)
    return f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>\n"
