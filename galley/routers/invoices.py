"""Invoices: as JSON, for spreadsheets, and to print."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path
from fastapi.responses import Response

from galley.dialects import native
from galley.routers.deps import RuntimeDep, UsageAdmin, UsageCaller
from galley.routers.openapi import refusals
from galley.schemas.base import said_as
from galley.schemas.money import InvoiceList, InvoiceReply
from galley.services.invoice_pages import to_csv, to_html

router = APIRouter(responses=refusals(native, 401, 403, 422, 500))

Month = Annotated[
    str,
    Path(
        pattern=r"^20[0-9]{2}-(0[1-9]|1[0-2])$",
        description="Of UTC's calendar.",
        openapi_examples={"month": {"value": "2026-11"}},
    ),
    said_as("this is no month such as 2026-11"),
]
Format = Literal["json", "csv", "html"]

# The page loads nothing and runs nothing; names in it are what people call themselves.
_SAFE = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'",
    "x-content-type-options": "nosniff",
}
_TEXT = {"schema": {"type": "string"}}
_FORMATS: dict[int | str, dict[str, Any]] = {
    200: {"description": "The invoice.", "content": {"text/csv": _TEXT, "text/html": _TEXT}}
}


@router.get("/v1/invoices", summary="List your invoices", tags=["account"])
async def list_invoices(caller: UsageCaller, runtime: RuntimeDep) -> InvoiceList:
    """List the months in which you asked for anything, the latest first."""
    return await runtime.invoices.list(caller.user_id)


@router.get(
    "/v1/invoices/{month}",
    summary="An invoice",
    tags=["account"],
    response_model=InvoiceReply,
    responses={**refusals(native, 404), **_FORMATS},
)
async def retrieve_invoice(
    caller: UsageCaller, runtime: RuntimeDep, month: Month, format: Format = "json"
) -> Response | InvoiceReply:
    """Say what you owe for a month, line by line."""
    return _framed(await runtime.invoices.of(caller.user_id, month), format)


@router.get(
    "/v1/admin/users/{user_id}/invoices/{month}",
    summary="A user's invoice",
    tags=["admin"],
    response_model=InvoiceReply,
    responses={**refusals(native, 404), **_FORMATS},
)
async def retrieve_user_invoice(
    caller: UsageAdmin, runtime: RuntimeDep, user_id: str, month: Month, format: Format = "json"
) -> Response | InvoiceReply:
    """Say what a user owes for a month, line by line."""
    return _framed(await runtime.invoices.of(user_id, month), format)


def _framed(invoice: InvoiceReply, format: Format) -> Response | InvoiceReply:
    if format == "csv":
        name = f'attachment; filename="invoice-{invoice.month}.csv"'
        headers = {"content-disposition": name, "x-content-type-options": "nosniff"}
        return Response(to_csv(invoice), media_type="text/csv", headers=headers)
    if format == "html":
        return Response(to_html(invoice), media_type="text/html", headers=_SAFE)
    return invoice
